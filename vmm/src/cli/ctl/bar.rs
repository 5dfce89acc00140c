//! How far a snapshot or a restore has come, drawn on the terminal while the call is under way.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use granule_api::client::Client;
use granule_api::types::WorkInfo;

/// Between two looks.
const PACE: Duration = Duration::from_millis(200);
/// Characters of the bar itself.
const WIDTH: u64 = 40;

/// Asks on a connection of its own; without a terminal it never does.
pub(super) struct Bar(Option<Client>);

impl Bar {
    /// A bar where there is something to draw, and somewhere to draw it.
    pub async fn of(endpoint: &str, socket: &Path) -> Self {
        let long = ["vm.snapshot", "vm.restore"].contains(&endpoint);
        if !long || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        Self(Client::connect(socket).await.ok())
    }

    /// Draws it anew, a little later.
    pub async fn step(&mut self) {
        let Some(client) = &mut self.0 else { return std::future::pending().await };
        tokio::time::sleep(PACE).await;
        // While a restore begins there is no VM to ask about.
        if let Ok(info) = client.info().await
            && let Some(work) = info.work
        {
            draw(&line(&work));
        }
    }

    /// Takes it off the terminal.
    pub fn clear(self) {
        if self.0.is_some() {
            draw("");
        }
    }
}

fn draw(text: &str) {
    // Nobody to see it is no reason to fail.
    let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
}

fn line(work: &WorkInfo) -> String {
    let of = work.of.max(1);
    let done = work.done.min(of);
    let full = u128::from(done) * u128::from(WIDTH) / u128::from(of);
    let bar: String = (0..u128::from(WIDTH)).map(|at| if at < full { '#' } else { '.' }).collect();
    format!("{} [{bar}] {:3} %", work.what, u128::from(done) * 100 / u128::from(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_full_as_the_work_is_done() {
        let line = |done, of| line(&WorkInfo { what: "snapshot".into(), done, of });
        assert_eq!(line(0, 0), format!("snapshot [{}]   0 %", ".".repeat(40)));
        assert_eq!(line(1, 2), format!("snapshot [{}{}]  50 %", "#".repeat(20), ".".repeat(20)));
        assert_eq!(line(u64::MAX, u64::MAX), format!("snapshot [{}] 100 %", "#".repeat(40)));
    }
}
