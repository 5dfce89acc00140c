use std::time::Duration;

use granule_api::call::Call;
use granule_api::config::{MteRequest, VmConfig};
use granule_api::error::ApiError;
use granule_api::server::{Reply, Request};
use granule_jail::SeccompMode;
use tokio::sync::{mpsc, oneshot};

use super::{Driver, End, Parts};
use crate::control::children::Children;
use crate::control::create::Defaults;
use crate::control::events::EventMonitor;
use crate::control::link::MachineLink;
use crate::control::vm::PassedFds;
use crate::wire::{Channel, Command, Envelope, Failure, FromMachine, GuestEnd, Notice, Outcome};

/// Generous: it only says what hung.
const PATIENCE: Duration = Duration::from_secs(60);

/// The other ends of a driver: a client's and the machine's.
struct Around {
    requests: mpsc::Sender<Request>,
    machine: Channel,
}

type Answer = oneshot::Receiver<Result<Reply, ApiError>>;

impl Around {
    async fn ask(&self, call: Call) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request { call, fds: Vec::new(), reply }).await.unwrap();
        answer
    }

    /// Lets the driver run until it has sent the next command.
    async fn commanded(&self) {
        let limit = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let there = || {
            let mut fds = [rustix::event::PollFd::new(&self.machine, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&limit)).unwrap() == 1
        };
        while !there() {
            tokio::task::yield_now().await;
        }
    }

    /// Reads the next command and answers it.
    fn answer_next(&self, body: Result<Outcome, Failure>) -> Command {
        let Envelope { id, body: command } = self.machine.receive::<Envelope<Command>>().unwrap().message;
        self.machine.send(&FromMachine::Reply(Envelope { id, body }), &[]).unwrap();
        command
    }
}

/// Runs `test` beside a driver whose machine says nothing of itself; answers how the driver ended.
fn beside<F: Future<Output = ()> + 'static>(test: impl FnOnce(Around) -> F + 'static) -> End {
    beside_started_with(None, test)
}

/// [`beside`], with a VM on the command line.
fn beside_started_with<F: Future<Output = ()> + 'static>(
    config: Option<VmConfig>,
    test: impl FnOnce(Around) -> F + 'static,
) -> End {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (ours, machine) = Channel::pair().unwrap();
        let (request_sender, requests) = mpsc::channel(8);
        let (post, inbox) = mpsc::unbounded_channel();
        let children = Children::new(SeccompMode::Off, post.clone()).unwrap();
        let mut driver = Driver::new(Parts {
            link: MachineLink::new(ours).unwrap(),
            requests,
            inbox,
            post,
            events: EventMonitor::silent(),
            children,
            defaults: Defaults::new(MteRequest::Auto),
        });
        if let Some(config) = config {
            driver.boot_from_command_line(config, PassedFds::new());
        }
        let local = tokio::task::LocalSet::new();
        local.spawn_local(test(Around { requests: request_sender, machine }));
        tokio::time::timeout(PATIENCE, local.run_until(driver.run())).await.expect("the driver does not end")
    })
}

async fn outcome(answer: Answer) -> Result<Reply, u16> {
    let answer =
        tokio::time::timeout(PATIENCE, answer).await.expect("no answer").expect("the request was dropped");
    answer.map_err(|error| error.status())
}

fn config() -> Box<VmConfig> {
    Box::new(
        serde_json::from_str(
            r#"{"payload":{"kernel":"/boot/Image"},"cpus":{"boot_vcpus":1,"max_vcpus":1,"features":{"mte":false}}}"#,
        )
        .unwrap(),
    )
}

#[test]
fn ping_and_info_are_answered_while_the_machine_is_silent_and_the_rest_waits_its_turn() {
    let end = beside(|around| async move {
        let ping = outcome(around.ask(Call::VmmPing).await).await;
        assert!(matches!(ping, Ok(Reply::Json(_))), "{ping:?}");
        assert_eq!(outcome(around.ask(Call::VmInfo).await).await, Err(404));
        let mut created = around.ask(Call::VmCreate(config())).await;
        assert!(matches!(outcome(around.ask(Call::VmmPing).await).await, Ok(Reply::Json(_))));
        assert!(created.try_recv().is_err(), "what needs to know the host waits until it is known");
        assert!(matches!(around.answer_next(Err(Failure::of("no KVM"))), Command::Hello));
        assert_eq!(outcome(created).await, Ok(Reply::Empty204));
        assert!(matches!(outcome(around.ask(Call::VmInfo).await).await, Ok(Reply::Json(_))));
        assert_eq!(outcome(around.ask(Call::VmmShutdown).await).await, Ok(Reply::Empty200));
    });
    assert_eq!(end, End::Orderly(0));
}

#[test]
fn a_refused_configuration_leaves_nothing_behind() {
    let end = beside(|around| async move {
        around.answer_next(Err(Failure::of("no KVM")));
        let mut wrong = config();
        wrong.cpus.features.mte = Some(MteRequest::On);
        assert_eq!(outcome(around.ask(Call::VmCreate(wrong)).await).await, Err(400));
        assert_eq!(outcome(around.ask(Call::VmInfo).await).await, Err(404));
        assert_eq!(outcome(around.ask(Call::VmCreate(config())).await).await, Ok(Reply::Empty204));
        assert_eq!(outcome(around.ask(Call::VmCreate(config())).await).await, Err(409));
        assert_eq!(outcome(around.ask(Call::VmDelete).await).await, Ok(Reply::Empty204));
        assert_eq!(outcome(around.ask(Call::VmmShutdown).await).await, Ok(Reply::Empty200));
    });
    assert_eq!(end, End::Orderly(0));
}

#[test]
fn news_of_a_guest_that_is_not_there_changes_nothing() {
    let end = beside(|around| async move {
        around.answer_next(Err(Failure::of("no KVM")));
        around.machine.send(&FromMachine::Notice(Notice::GuestEnded(GuestEnd::Reset)), &[]).unwrap();
        around.machine.send(&FromMachine::Notice(Notice::GuestEnded(GuestEnd::PowerOff)), &[]).unwrap();
        assert!(matches!(outcome(around.ask(Call::VmmPing).await).await, Ok(Reply::Json(_))));
        around.machine.send(&FromMachine::Notice(Notice::Terminate { signal: libc::SIGTERM }), &[]).unwrap();
        // Held until the driver has ended: its machine must not be lost before.
        std::future::pending::<()>().await;
    });
    assert_eq!(end, End::Orderly(0));
}

#[test]
fn the_boot_of_the_command_line_is_waited_for() {
    let mut config = *config();
    // Any regular file: the machine, which looks into it, is this test.
    config.payload.kernel = std::env::current_exe().ok();
    let end = beside_started_with(Some(config), |around| async move {
        assert!(matches!(around.answer_next(Err(Failure::of("no KVM"))), Command::Hello));
        around.commanded().await;
        assert!(matches!(around.answer_next(Err(Failure::of("not a kernel"))), Command::Boot(_)));
        std::future::pending::<()>().await;
    });
    assert_eq!(end, End::Orderly(1));
}

#[test]
fn a_machine_that_is_lost_or_speaks_nonsense_ends_everything() {
    assert_eq!(beside(|around| async move { drop(around.machine) }), End::MachineLost);
    let nonsense = beside(|around| async move {
        around.machine.send(&"nonsense", &[]).unwrap();
        std::future::pending::<()>().await;
    });
    assert_eq!(nonsense, End::MachineLost);
}
