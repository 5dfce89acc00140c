//! Shell completions and the manual page, made of the flags themselves.

use clap::CommandFactory;
use clap_complete::Shell;

use super::typed::Typed;

/// What a shell reads to complete our command line.
pub(super) fn completions(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Typed::command(), "granule", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// The manual page, as `man` formats it.
pub(super) fn manual() -> String {
    let mut text = Vec::new();
    // A vector takes all that is written to it.
    let _ = clap_mangen::Man::new(Typed::command()).render(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_completes_each_flag_that_is_shown() {
        let flags = Typed::command();
        let shown = flags.get_arguments().filter(|flag| !flag.is_hide_set());
        let names: Vec<&str> = shown.filter_map(|flag| flag.get_long()).collect();
        assert!(names.len() > 20);
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = completions(shell);
            for name in &names {
                assert!(text.contains(name), "{shell} does not know --{name}");
            }
        }
    }

    #[test]
    fn the_manual_has_each_flag_that_is_shown() {
        let text = manual().replace("\\-", "-");
        for flag in Typed::command().get_arguments().filter(|flag| !flag.is_hide_set()) {
            if let Some(name) = flag.get_long() {
                assert!(text.contains(&format!("--{name}")), "--{name} is not in the manual");
            }
        }
    }
}
