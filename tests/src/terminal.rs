//! A real terminal: tmux.

use std::{path::PathBuf, process::Command};

use crate::{clock::eventually_some, process};

/// A tmux of its own, with one window of 80 by 24.
#[derive(Debug)]
pub struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    /// A shell script in it, which finds a command as `$LIMITER`.
    pub fn start(command: &Command, socket: PathBuf, script: &str) -> Self {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words.map(|word| word.to_str().expect("UTF-8")).collect();
        let terminal = Self { socket };
        let script = format!("LIMITER='{}'; {script}", words.join(" "));
        process::succeed(
            terminal
                .tmux(&[
                    "new-session",
                    "-d",
                    "-x",
                    "80",
                    "-y",
                    "24",
                    "sh",
                    "-c",
                    &script,
                ])
                .env("LANG", "C.UTF-8"),
        );
        terminal
    }

    /// A command of tmux's for it.
    pub fn tmux(&self, words: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command
            .arg("-S")
            .arg(&self.socket)
            .args(["-f", "/dev/null"]);
        command.args(words);
        command
    }

    /// Types keys, by tmux's names.
    pub fn keys(&self, keys: &[&str]) {
        process::succeed(self.tmux(&["send-keys"]).args(keys));
    }

    /// The lines that are shown.
    pub fn screen(&self) -> Vec<String> {
        let text = process::succeed(&mut self.tmux(&["capture-pane", "-p"]));
        text.lines().map(str::to_owned).collect()
    }

    /// The same with the escape sequences of colours.
    pub fn painted(&self) -> String {
        process::succeed(&mut self.tmux(&["capture-pane", "-p", "-e"]))
    }

    /// The lines, as soon as they are as they should be.
    #[track_caller]
    pub fn until(&self, what: &str, fits: impl Fn(&[String]) -> bool) -> Vec<String> {
        let mut seen = Vec::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually_some(what, || {
                seen = self.screen();
                fits(&seen).then(|| seen.clone())
            })
        }));
        found.unwrap_or_else(|_| panic!("{what}: {seen:#?}"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended by itself with its last command, or not.
        let _ = self.tmux(&["kill-server"]).output();
    }
}
