//! Runs the tests one after the other on the main thread and prints as libtest does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// How a test ended, when it did not fail.
pub enum End {
    Passed,
    /// Counted as skipped, with the reason.
    Skipped(String),
}

pub type Test = (&'static str, fn() -> End);

pub fn run(filter: Option<&str>) -> ExitCode {
    let filter = filter.filter(|word| !word.starts_with('-')).unwrap_or_default();
    let tests = [crate::spawning::TESTS, crate::refusals::TESTS, crate::work::TESTS].concat();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, test) in tests.iter().filter(|(name, _)| name.contains(filter)) {
        match catch_unwind(AssertUnwindSafe(test)) {
            Ok(End::Passed) => {
                println!("test {name} ... ok");
                passed += 1;
            }
            Ok(End::Skipped(reason)) => {
                println!("test {name} ... skipped: {reason}");
                skipped += 1;
            }
            Err(_) => {
                println!("test {name} ... FAILED");
                failed += 1;
            }
        }
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {result}. {passed} passed; {failed} failed; {skipped} skipped");
    ExitCode::from(u8::from(failed != 0))
}
