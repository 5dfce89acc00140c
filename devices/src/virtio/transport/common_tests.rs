use proptest::prelude::*;

use super::*;
use crate::virtio::spec::F_EVENT_IDX;

const ALL_UP: u8 = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK;

fn registers() -> CommonConfig {
    CommonConfig::new(F_EVENT_IDX | 1, &[256, 64], 3)
}

fn read(registers: &CommonConfig, offset: u64, len: usize) -> u64 {
    let mut data = [0; 8];
    registers.read(offset, &mut data[..len]);
    u64::from_le_bytes(data)
}

fn status(registers: &mut CommonConfig, value: u8) -> Effect {
    registers.write(common::DEVICE_STATUS, &[value])
}

fn accept(registers: &mut CommonConfig, features: u64) {
    for select in 0..2u32 {
        registers.write(common::DRIVER_FEATURE_SELECT, &select.to_le_bytes());
        registers.write(common::DRIVER_FEATURE, &((features >> (32 * select)) as u32).to_le_bytes());
    }
}

fn bring_up(registers: &mut CommonConfig) -> Effect {
    status(registers, STATUS_ACKNOWLEDGE);
    status(registers, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
    accept(registers, F_VERSION_1);
    status(registers, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
    status(registers, ALL_UP)
}

#[test]
fn features_are_offered_by_halves_and_nothing_beyond() {
    let mut registers = registers();
    for (select, expected) in [(0, F_EVENT_IDX | 1), (1, 1), (2, 0), (u32::MAX, 0)] {
        registers.write(common::DEVICE_FEATURE_SELECT, &select.to_le_bytes());
        assert_eq!(read(&registers, common::DEVICE_FEATURE, 4), expected, "{select}");
    }
}

#[test]
fn a_driver_that_follows_the_steps_comes_up_once() {
    let mut registers = registers();
    assert_eq!(bring_up(&mut registers), Effect::Activate);
    assert_eq!(read(&registers, common::DEVICE_STATUS, 1), u64::from(ALL_UP));
    assert_eq!(status(&mut registers, ALL_UP), Effect::None);
    assert_eq!(status(&mut registers, 0), Effect::Reset);
}

#[test]
fn features_ok_is_refused_without_version_1_or_with_a_feature_not_offered() {
    for features in [0, F_EVENT_IDX, F_VERSION_1 | 2, F_VERSION_1 | 1 << 63] {
        let mut registers = registers();
        status(&mut registers, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
        accept(&mut registers, features);
        status(&mut registers, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
        assert_eq!(registers.status & STATUS_FEATURES_OK, 0, "{features:#x}");
        assert_eq!(status(&mut registers, ALL_UP), Effect::None, "{features:#x}");
    }
}

#[test]
fn no_step_can_be_left_out() {
    for first in [STATUS_DRIVER, STATUS_FEATURES_OK, STATUS_DRIVER_OK, STATUS_NEEDS_RESET] {
        let mut registers = registers();
        accept(&mut registers, F_VERSION_1);
        assert_eq!(status(&mut registers, first), Effect::None);
        assert_eq!(registers.status, 0, "{first}");
    }
}

#[test]
fn a_device_that_needs_a_reset_does_not_come_up() {
    let mut registers = registers();
    registers.status = STATUS_NEEDS_RESET;
    assert_eq!(bring_up(&mut registers), Effect::None);
    assert!(!registers.driver_ok());
}

#[test]
fn status_bits_cannot_be_taken_back() {
    let mut registers = registers();
    bring_up(&mut registers);
    status(&mut registers, STATUS_FAILED);
    assert_eq!(registers.status, ALL_UP | STATUS_FAILED);
}

#[test]
fn features_are_locked_after_features_ok() {
    let mut registers = registers();
    bring_up(&mut registers);
    accept(&mut registers, F_VERSION_1 | F_EVENT_IDX);
    assert_eq!(registers.features(), F_VERSION_1);
}

/// CVE-2026-5747 was a queue whose size was changed after activation.
#[test]
fn every_queue_register_is_locked_once_the_driver_is_up_or_the_queue_is_enabled() {
    for enabled in [false, true] {
        let mut registers = registers();
        if enabled {
            registers.write(common::QUEUE_ENABLE, &1u16.to_le_bytes());
        } else {
            bring_up(&mut registers);
        }
        let before = registers.queues.clone();
        registers.write(common::QUEUE_SIZE, &16u16.to_le_bytes());
        registers.write(common::QUEUE_ENABLE, &u16::from(!enabled).to_le_bytes());
        for offset in (common::QUEUE_DESC..common::SIZE).step_by(4) {
            registers.write(offset, &0x1234_5678u32.to_le_bytes());
        }
        registers.write(common::QUEUE_DESC, &u64::MAX.to_le_bytes());
        assert_eq!(registers.queues, before);
    }
}

#[test]
fn queue_addresses_are_written_whole_or_by_halves() {
    let mut registers = registers();
    registers.write(common::QUEUE_SELECT, &1u16.to_le_bytes());
    registers.write(common::QUEUE_DESC, &0x1_2345_6780u64.to_le_bytes());
    registers.write(common::QUEUE_DEVICE + 4, &9u32.to_le_bytes());
    registers.write(common::QUEUE_DEVICE, &8u32.to_le_bytes());
    assert_eq!(registers.queues[1].descriptors, 0x1_2345_6780);
    assert_eq!(registers.queues[1].used, 0x9_0000_0008);
    assert_eq!(read(&registers, common::QUEUE_DEVICE, 8), 0x9_0000_0008);
    assert_eq!(registers.queues[0].descriptors, 0);
}

/// Cloud Hypervisor #7918 was a panic in the vector of a queue that there is not.
#[test]
fn a_queue_that_is_not_there_reads_as_nothing_and_takes_no_write() {
    for select in [2u16, 1024, 0xffff] {
        let mut registers = registers();
        registers.write(common::QUEUE_SELECT, &select.to_le_bytes());
        let before = registers.queues.clone();
        for offset in common::QUEUE_SIZE..common::SIZE {
            for len in [1, 2, 4, 8] {
                assert_eq!(registers.write(offset, &[1; 8][..len]), Effect::None);
            }
        }
        assert_eq!(registers.queues, before);
        assert_eq!(read(&registers, common::QUEUE_SIZE, 2), 0);
        assert_eq!(read(&registers, common::QUEUE_VECTOR, 2), u64::from(NO_VECTOR));
        for offset in common::QUEUE_ENABLE..common::SIZE {
            assert_eq!(read(&registers, offset, 1), 0, "{select} {offset:#x}");
        }
    }
}

#[test]
fn a_vector_that_is_not_there_reads_back_as_none() {
    let mut registers = registers();
    assert_eq!(registers.write(common::QUEUE_VECTOR, &2u16.to_le_bytes()), Effect::QueueVector(0));
    assert_eq!(registers.write(common::QUEUE_VECTOR, &2u16.to_le_bytes()), Effect::None);
    assert_eq!(registers.write(common::QUEUE_VECTOR, &3u16.to_le_bytes()), Effect::QueueVector(0));
    assert_eq!(read(&registers, common::QUEUE_VECTOR, 2), u64::from(NO_VECTOR));
    registers.write(common::CONFIG_VECTOR, &3u16.to_le_bytes());
    assert_eq!(read(&registers, common::CONFIG_VECTOR, 2), u64::from(NO_VECTOR));
}

#[test]
fn a_reset_leaves_nothing_but_the_generation() {
    let mut registers = registers();
    bring_up(&mut registers);
    registers.generation = 7;
    registers.reset();
    assert_eq!(registers, CommonConfig { generation: 7, ..self::registers() });
}

proptest! {
    #[test]
    fn no_sequence_of_writes_panics_or_leaves_an_unsound_queue(
        writes in prop::collection::vec((0u64..0x48, 0usize..9, any::<u64>()), 0..300)
    ) {
        let mut registers = registers();
        for (offset, len, value) in writes {
            // Low bits set now and then, so that the status does get along.
            let value = if value & 1 == 0 { value % 256 } else { value };
            if registers.write(offset, &value.to_le_bytes()[..len.min(8)]) == Effect::Reset {
                registers.reset();
            }
            let mut data = vec![0; len];
            registers.read(offset, &mut data);
            for queue in &registers.queues {
                prop_assert!(queue.size.is_power_of_two() && queue.size <= queue.max_size);
                prop_assert!(queue.vector < 3 || queue.vector == NO_VECTOR);
            }
        }
    }
}
