//! What the guest is asked to do, from the kernel's command line.

use std::time::Duration;

/// The `granule.…` words of the command line; everything else on it is the kernel's.
#[derive(Debug, PartialEq, Eq)]
pub struct Params {
    /// `granule.run=NAME,NAME`: the checks, in order.
    pub run: Vec<String>,
    /// `granule.start=NAME,NAME`: the services that go on beside them.
    pub start: Vec<String>,
    /// `granule.then=WHAT`: what follows the checks; see [`crate::serve::act`].
    pub then: String,
    /// `granule.tick=MILLISECONDS`: a sign of life at this pace.
    pub tick: Option<Duration>,
}

impl Params {
    /// Reads the words it knows; the last of two equal ones wins.
    pub fn parse(cmdline: &str) -> Self {
        let mut params = Self { run: Vec::new(), start: Vec::new(), then: "serve".to_owned(), tick: None };
        for word in cmdline.split_whitespace() {
            match word.strip_prefix("granule.").and_then(|w| w.split_once('=')) {
                Some(("run", names)) => params.run = names.split(',').map(str::to_owned).collect(),
                Some(("start", names)) => params.start = names.split(',').map(str::to_owned).collect(),
                Some(("then", what)) => params.then = what.to_owned(),
                Some(("tick", ms)) => params.tick = ms.parse().ok().map(Duration::from_millis),
                _ => {}
            }
        }
        params
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_kernel_are_passed_over() {
        let params = Params::parse(
            "console=ttyAMA0 granule.run=mte,pci quiet granule.then=poweroff granule.start=vsock granule.tick=20\n",
        );
        assert_eq!(params.run, ["mte", "pci"]);
        assert_eq!((params.then.as_str(), &params.start[..]), ("poweroff", &["vsock".to_owned()][..]));
        assert_eq!(params.tick, Some(Duration::from_millis(20)));
    }

    #[test]
    fn an_empty_command_line_serves_the_console() {
        let params = Params::parse("");
        assert_eq!(params, Params { run: vec![], start: vec![], then: "serve".to_owned(), tick: None });
    }
}
