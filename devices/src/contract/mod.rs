//! What every device process must withstand, as a macro that each device's tests call.
//!
//! The device runs as it does in its process, on a thread, behind a real socket and the real front end; its driver is
//! made by hand.

pub(crate) mod bench;
pub(crate) mod driver;
pub(crate) mod rig;
mod whole_path;

/// Makes the tests of the contract for one device.
///
/// `$device` makes a device; `$request` describes a good request from descriptor 0 on, given a [`driver::Driver`];
/// `$answered` says whether the device has done what the request asks, given the driver and the used length.
macro_rules! device_contract {
    ($device:expr, $request:expr, $answered:expr) => {
        mod contract {
            use super::*;
            use crate::contract::driver::{
                BUFFERS, Descriptor, Driver, INDIRECT, NEXT, RAM, RAM_SIZE, SIZE, WRITE,
            };
            use crate::contract::rig::Rig;

            fn rig() -> Rig {
                Rig::start(|| $device)
            }

            fn serves_a_good_request(rig: &mut Rig) {
                let request: fn(&mut Driver) = $request;
                let answered: fn(&Driver, u32) -> bool = $answered;
                request(&mut rig.driver);
                let (head, length) = rig.round_trip(0);
                assert_eq!(head, 0);
                assert!(answered(&rig.driver, length));
            }

            #[test]
            fn it_serves_a_request_and_interrupts() {
                let mut rig = rig();
                rig.start_queue(0);
                serves_a_good_request(&mut rig);
                assert!(rig.called());
            }

            #[test]
            fn it_goes_on_where_it_was_after_a_stop() {
                let mut rig = rig();
                rig.start_queue(0);
                serves_a_good_request(&mut rig);
                rig.stop();
                rig.start_queue(1);
                serves_a_good_request(&mut rig);
            }

            #[test]
            fn a_stopped_queue_is_not_touched() {
                let mut rig = rig();
                rig.start_queue(0);
                rig.stop();
                let request: fn(&mut Driver) = $request;
                request(&mut rig.driver);
                rig.driver.offer(0);
                rig.kick();
                // A request that the process has answered since shows that it was not asleep.
                rig.round_of_requests();
                assert_eq!(rig.driver.used(), 0);
            }

            #[test]
            fn what_was_available_before_the_start_is_served_without_a_kick() {
                let mut rig = rig();
                let request: fn(&mut Driver) = $request;
                request(&mut rig.driver);
                rig.driver.offer(0);
                rig.start_queue(0);
                rig.wait_used(1);
            }

            #[test]
            fn malformed_chains_are_given_back_and_the_device_lives_on() {
                let end = RAM + RAM_SIZE;
                let chains: &[&[Descriptor]] = &[
                    // Outside memory, at its end, around the top of the address space.
                    &[(0x900_0000, 64, WRITE, 0)],
                    &[(end - 8, 64, WRITE, 0)],
                    &[(u64::MAX - 7, 64, WRITE, 0)],
                    &[(end - 1, 1, WRITE, 0)],
                    // Nothing at all, nothing for the device, lengths that no memory has.
                    &[(BUFFERS, 0, WRITE, 0)],
                    &[(BUFFERS, 64, 0, 0)],
                    &[(BUFFERS, u32::MAX, WRITE, 0)],
                    &[(BUFFERS, u32::MAX, WRITE | NEXT, 1), (BUFFERS, u32::MAX, WRITE, 0)],
                    // Loops, and a next that is not there.
                    &[(BUFFERS, 64, WRITE | NEXT, 0)],
                    &[(BUFFERS, 0, WRITE | NEXT, 1), (BUFFERS, 0, WRITE | NEXT, 0)],
                    &[(BUFFERS, 64, WRITE | NEXT, SIZE)],
                    &[(BUFFERS, 64, WRITE | NEXT, 0xffff)],
                    // Indirect tables: outside memory, of odd length, empty, and one that names itself.
                    &[(0x900_0000, 64, INDIRECT, 0)],
                    &[(BUFFERS, 17, INDIRECT, 0)],
                    &[(BUFFERS, 0, INDIRECT, 0)],
                    &[(BUFFERS, u32::MAX & !15, INDIRECT, 0)],
                    &[(RAM, 16, INDIRECT, 0)],
                    &[(BUFFERS, 64, INDIRECT | WRITE | NEXT, 3)],
                ];
                for chain in chains {
                    let mut rig = rig();
                    rig.start_queue(0);
                    for (index, descriptor) in (0..).zip(*chain) {
                        rig.driver.describe(index, *descriptor);
                    }
                    let (head, length) = rig.round_trip(0);
                    assert_eq!(head, 0, "{chain:x?}");
                    assert!(u64::from(length) <= RAM_SIZE, "{chain:x?}");
                    serves_a_good_request(&mut rig);
                }
            }

            #[test]
            fn a_buffer_across_two_regions_is_one_buffer() {
                let mut rig = rig();
                rig.start_queue(0);
                rig.driver.describe(0, (RAM + RAM_SIZE / 2 - 32, 64, WRITE, 0));
                rig.round_trip(0);
                serves_a_good_request(&mut rig);
            }

            #[test]
            fn broken_rings_are_reported_and_can_be_set_up_anew() {
                let mut rig = rig();
                // More available than there is room for; a head that is no descriptor.
                let breaks: [fn(&mut Rig); 2] =
                    [|rig| rig.driver.set_available(SIZE + 1), |rig| rig.driver.offer(SIZE)];
                for break_it in breaks {
                    rig.start_queue(0);
                    break_it(&mut rig);
                    rig.kick();
                    rig.wait_error();
                    rig.stop();
                    rig.renew_driver();
                    rig.start_queue(0);
                    serves_a_good_request(&mut rig);
                    rig.stop();
                    rig.renew_driver();
                }
            }

            #[test]
            fn whatever_the_rings_hold_it_goes_on_answering() {
                // A generator of bad rings; the same ones each time.
                let mut seed = 0x2545_f491_4f6c_dd1du64;
                let mut random = || {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    seed
                };
                let mut rig = rig();
                for _ in 0..200 {
                    for index in 0..SIZE {
                        // Mostly nearly right: buffers in or near memory, short chains, some tables.
                        let address = BUFFERS.wrapping_add(random() % (2 * RAM_SIZE));
                        let address = if random() % 8 == 0 { random() } else { address };
                        let length = if random() % 4 == 0 { random() as u32 } else { random() as u32 % 4096 };
                        let flags = random() as u16 & (NEXT | WRITE | INDIRECT);
                        rig.driver.describe(index, (address, length, flags, random() as u16 % (SIZE + 2)));
                    }
                    rig.start_queue(0);
                    for _ in 0..random() % u64::from(SIZE) {
                        rig.driver.offer(random() as u16 % (SIZE + 1));
                    }
                    rig.kick();
                    rig.round_of_requests();
                    rig.stop();
                    rig.renew_driver();
                }
                rig.start_queue(0);
                serves_a_good_request(&mut rig);
            }

            #[test]
            fn a_full_ring_is_served_to_the_end() {
                let mut rig = rig();
                rig.start_queue(0);
                let request: fn(&mut Driver) = $request;
                request(&mut rig.driver);
                for _ in 0..SIZE {
                    rig.driver.offer(0);
                }
                rig.kick();
                rig.wait_used(SIZE);
            }

            #[test]
            fn all_that_it_writes_is_in_the_log_while_there_is_one() {
                let mut rig = rig();
                rig.start_queue(0);
                serves_a_good_request(&mut rig);
                let log = rig.log_writes();
                let request: fn(&mut Driver) = $request;
                request(&mut rig.driver);
                rig.driver.offer(0);
                let before = rig.pages();
                rig.kick();
                rig.wait_used(2);
                // A turn is logged when it is over, and then the next request is answered.
                rig.round_of_requests();
                let logged = Rig::logged(&log);
                let after = rig.pages();
                let written = (0..).zip(before.iter().zip(&after)).filter(|(_, (was, is))| was != is);
                let written: Vec<u64> = written.map(|(page, _)| page).collect();
                assert!(!written.is_empty(), "at least the used ring");
                let missing: Vec<_> = written.iter().filter(|page| !logged.contains(page)).collect();
                assert!(missing.is_empty(), "pages {missing:?} of {written:?} are not in {logged:?}");

                rig.log_no_more();
                rig.start_queue(2);
                serves_a_good_request(&mut rig);
                rig.round_of_requests();
                assert_eq!(Rig::logged(&log), Vec::<u64>::new());
            }

            #[test]
            fn kicks_without_buffers_do_nothing() {
                let mut rig = rig();
                rig.start_queue(0);
                for _ in 0..1000 {
                    rig.kick();
                }
                rig.round_of_requests();
                assert_eq!(rig.driver.used(), 0);
                serves_a_good_request(&mut rig);
            }

            #[test]
            fn a_queue_that_it_does_not_have_is_refused() {
                let rig = rig();
                assert!(rig.refuses_queue(7));
            }

            #[test]
            fn it_ends_when_its_front_end_goes() {
                let mut rig = rig();
                rig.start_queue(0);
                assert!(rig.hang_up().is_ok());
            }

            #[test]
            fn it_ends_when_what_it_is_told_is_no_vhost_user() {
                for bytes in [&[0xff; 64][..], &[0; 12], b"GET / HTTP/1.1\r\n\r\n"] {
                    Rig::babble(|| $device, bytes);
                }
            }
        }
    };
}

pub(crate) use device_contract;
