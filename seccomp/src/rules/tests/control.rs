//! No refusal of control's is there for nothing: what a line refuses, no other line does.

use super::{ALLOW, KILL_PROCESS, PID, run};
use crate::arch::Arch;
use crate::filter;
use crate::kind::{JailKind, SeccompMode};
use crate::rules::{Sense, Table};

#[test]
fn each_refusal_left_out_lets_through_what_it_is_for() {
    let whole = Table::of(JailKind::Control);
    assert_eq!(whole.sense, Sense::Refuse);
    for (arch, index) in Arch::ALL.into_iter().flat_map(|arch| (0..whole.rules.len()).map(move |n| (arch, n)))
    {
        let rule = whole.rules[index];
        let Some(number) = rule.call.number(arch) else { continue };
        let mut wider = whole.clone();
        wider.rules.remove(index);
        let answer = |table: &Table| {
            let program = filter::compile(table, SeccompMode::Enforce, arch, PID).unwrap().unwrap();
            run(&program, arch, number, rule.example())
        };
        assert_eq!(answer(&whole), KILL_PROCESS, "{arch:?}: {}", rule.call.name());
        assert_eq!(answer(&wider), ALLOW, "{arch:?}: another line refuses {} too", rule.call.name());
    }
}
