//! A progress bar for downloads.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::download::Transfer;
use super::environment::Bars;

/// Shows one download after the other on standard error; shows nothing where that is no terminal.
#[derive(Debug)]
pub struct DownloadBar {
    bars: Bars,
    current: Option<(String, ProgressBar)>,
}

impl DownloadBar {
    /// A bar that has nothing to show yet.
    #[must_use]
    pub fn new(bars: Bars) -> Self {
        Self { bars, current: None }
    }

    /// Shows how far `transfer` is.
    pub fn show(&mut self, transfer: &Transfer<'_>) {
        let known = self.current.take().filter(|(file, _)| file == transfer.file);
        let (file, bar) = known.unwrap_or_else(|| (transfer.file.to_owned(), self.start(transfer)));
        bar.set_position(transfer.done_bytes);
        if Some(transfer.done_bytes) == transfer.total_bytes {
            bar.finish();
        }
        self.current = Some((file, bar));
    }

    fn start(&self, transfer: &Transfer<'_>) -> ProgressBar {
        let target = match self.bars {
            Bars::Shown => ProgressDrawTarget::stderr(),
            Bars::Hidden => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(transfer.total_bytes, target).with_message(transfer.file.to_owned());
        let template = "{msg:>24} [{wide_bar:.cyan}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        // A stalled download still shows that somebody is waiting.
        bar.enable_steady_tick(Duration::from_millis(500));
        bar
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_has_its_own_bar() {
        let mut bar = DownloadBar::new(Bars::Hidden);
        let transfer = |file, done_bytes| Transfer { file, done_bytes, total_bytes: Some(10) };
        bar.show(&transfer("config.json", 4));
        bar.show(&transfer("config.json", 10));
        assert!(bar.current.as_ref().is_some_and(|(_, bar)| bar.is_finished()));
        bar.show(&transfer("model.safetensors", 0));
        assert!(bar.current.as_ref().is_some_and(|(file, bar)| file == "model.safetensors" && !bar.is_finished()));
    }
}
