// SPDX-License-Identifier: MIT OR Apache-2.0

//! A real terminal, provided by tmux.

use std::{path::PathBuf, process::Command};

use crate::{clock::eventually_some, process};

/// A private tmux server with one window of 80 columns and 24 rows.
#[derive(Debug)]
pub struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    /// Runs a shell script in the terminal. In the script, `$LIMITER` is `command`.
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

    /// Returns a tmux command for this server.
    pub fn tmux(&self, words: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command
            .arg("-S")
            .arg(&self.socket)
            .args(["-f", "/dev/null"]);
        command.args(words);
        command
    }

    /// Types keys. They have the names that tmux's `send-keys` uses.
    pub fn keys(&self, keys: &[&str]) {
        process::succeed(self.tmux(&["send-keys"]).args(keys));
    }

    /// Returns the lines on the screen.
    pub fn screen(&self) -> Vec<String> {
        let text = process::succeed(&mut self.tmux(&["capture-pane", "-p"]));
        text.lines().map(str::to_owned).collect()
    }

    /// Returns the content of the screen, with the escape sequences for colours.
    pub fn painted(&self) -> String {
        process::succeed(&mut self.tmux(&["capture-pane", "-p", "-e"]))
    }

    /// Waits until `fits` returns true for the lines on the screen, and returns the lines.
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
        // This command fails if the server is already gone, because a tmux server ends with its
        // last window.
        let _ = self.tmux(&["kill-server"]).output();
    }
}
