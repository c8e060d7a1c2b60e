// SPDX-License-Identifier: MIT OR Apache-2.0

//! The calls of this host to the fleet's engine, and recalls.

use std::{fmt, str::FromStr, sync::Arc, time::Instant};

use limiter_common::day::{Day, DayCount};
use limiter_fleet::{Call, Recall, Status, client::CallResult};
use tokio::sync::Notify;

use super::link::AWAY;
use crate::{domain::scope::ScopeName, engine::state::Engine, protocol::error::ApiError};

/// A recall as it is announced: the host that asks, the day, the demand and the scope, separated by
/// spaces. For example `4f… 20781 all acme/web`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecallText {
    /// The id of the host that asks, and that does not follow the recall itself.
    pub(crate) host: String,
    pub(crate) day: Day,
    pub(crate) demand: Demand,
    pub(crate) scope: ScopeName,
}

/// The demand of a recall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Demand {
    /// The hosts give back parts of their leases.
    Leases(Recall),
    /// The hosts report their counts.
    Counts,
}

/// The demands, with the words for them.
const DEMANDS: [(&str, Demand); 3] = [
    ("most", Demand::Leases(Recall::Most)),
    ("all", Demand::Leases(Recall::All)),
    ("count", Demand::Counts),
];

impl fmt::Display for RecallText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            day,
            demand,
            scope,
        } = self;
        let word = DEMANDS.iter().find(|(_, other)| other == demand);
        let word = word.map_or("count", |(word, _)| *word);
        write!(f, "{host} {} {word} {scope}", day.0)
    }
}

/// The error for a text that is not a recall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotRecall;

impl FromStr for RecallText {
    type Err = NotRecall;

    fn from_str(text: &str) -> Result<Self, NotRecall> {
        let mut words = text.splitn(4, ' ');
        let mut word = || words.next().ok_or(NotRecall);
        Ok(Self {
            host: word()?.to_owned(),
            day: Day(word()?.parse().map_err(|_| NotRecall)?),
            demand: {
                let text = word()?;
                let demand = DEMANDS.iter().find(|(word, _)| *word == text);
                demand.ok_or(NotRecall)?.1
            },
            scope: word()?.parse().map_err(|_| NotRecall)?,
        })
    }
}

/// Returns the sentence about a quota that the hosts have exceeded.
fn overrun(scope: &str, call: &Call, used: u64) -> String {
    format!(
        "fleet: the hosts have admitted {used} requests of {scope}, more than its daily quota of \
         {}",
        call.quota
    )
}

impl Engine {
    /// Returns up to `most` calls that are to be sent now, each with the name of its scope.
    pub(crate) fn fleet_calls(&mut self, most: usize) -> Vec<(String, Call)> {
        let Some(member) = &mut self.fleet else {
            return Vec::new();
        };
        if member.suspended.is_some() {
            return Vec::new();
        }
        let calls = member.leases.calls(Instant::now(), most);
        calls
            .into_iter()
            .filter_map(|call| Some((self.scopes.name_of(call.scope)?.to_string(), call)))
            .collect()
    }

    /// Returns the time at which there may be calls to send.
    pub(crate) fn next_fleet_call(&mut self) -> Option<Instant> {
        let member = self.fleet.as_mut()?;
        member
            .leases
            .next_call()
            .filter(|_| member.suspended.is_none())
    }

    /// Returns whether there are calls to send, or calls that wait for an answer.
    pub(crate) fn has_fleet_calls(&mut self) -> bool {
        self.fleet
            .as_mut()
            .is_some_and(|member| !member.leases.is_settled(Instant::now()))
    }

    /// Returns the notification that there may be calls to send.
    pub(crate) fn fleet_notification(&self) -> Option<Arc<Notify>> {
        self.fleet.as_ref().map(|member| Arc::clone(&member.calls))
    }

    /// Records whether the engine has answered a heartbeat. `suspended` is the reason why this host
    /// must not use its leases, if the engine has named one.
    pub(crate) fn note_beat(&mut self, answered: bool, suspended: Option<String>) {
        let Some(member) = &mut self.fleet else {
            return;
        };
        match answered {
            true => member.leases.engine_answered(),
            false => member.leases.engine_failed(Instant::now()),
        }
        if answered || suspended.is_some() {
            member.suspended = suspended;
        }
    }

    pub(crate) fn set_fleet_hosts(&mut self, hosts: u64) {
        if let Some(member) = &mut self.fleet {
            member.leases.set_hosts(hosts);
            member.rates.set_hosts(hosts);
        }
    }

    /// Records the results of `calls`. Returns the recalls that the engine asks for.
    ///
    /// # Errors
    /// Returns an error if the store cannot be written. The kernel then keeps the earlier bounds,
    /// and the next flush tries again.
    pub(crate) fn note_results(
        &mut self,
        calls: &[(String, Call)],
        results: Vec<CallResult>,
        host: &str,
    ) -> (Vec<String>, Result<(), ApiError>) {
        let Some(member) = &mut self.fleet else {
            return (Vec::new(), Ok(()));
        };
        let now = Instant::now();
        let mut steps = Vec::new();
        let mut recalls = Vec::new();
        let mut learns = false;
        for ((name, call), result) in calls.iter().zip(results) {
            match result {
                Ok(answer) => {
                    member.results.note(answer.status);
                    if answer.status == Status::Learning {
                        let was_learning = member.learning_until.is_some_and(|until| until > now);
                        learns |= !was_learning;
                        member.learning_until = Some(now + answer.retry_after);
                    }
                    steps.extend(member.leases.answered(now, call, &answer));
                    if let Some(used) = member.leases.take_overrun(call) {
                        member.overruns += 1;
                        self.events.add_health(overrun(name, call, used));
                    }
                    if let (Some(recall), Ok(scope)) = (answer.recall, name.parse()) {
                        let text = RecallText {
                            host: host.to_owned(),
                            day: call.day,
                            demand: Demand::Leases(recall),
                            scope,
                        };
                        recalls.push(text.to_string());
                    }
                }
                Err(failure) => {
                    member.results.note_failure();
                    member.leases.failed(now, call, failure);
                }
            }
        }
        if learns {
            self.events.add_health(
                "fleet: the engine may have lost its last writes, and grants nothing until the hosts have reported their leases"
                    .to_owned(),
            );
        }
        let applied = self.apply(steps);
        self.wake_calls();
        (recalls, applied)
    }

    /// Gives back the requests that other hosts need, and reports the counts that they ask for.
    ///
    /// # Errors
    /// Returns an error if the store cannot be written.
    pub(crate) fn note_recalls(&mut self, texts: &[String], host: &str) -> Result<(), ApiError> {
        let Some(member) = &mut self.fleet else {
            return Ok(());
        };
        let now = Instant::now();
        let mut steps = Vec::new();
        for text in texts {
            // A text of another form is from a host with a newer version.
            let Ok(recall) = text.parse::<RecallText>() else {
                continue;
            };
            if recall.host == host {
                continue;
            }
            let Some(scope) = self.scopes.get(&recall.scope) else {
                continue;
            };
            if scope.bounds.is_none() {
                continue;
            }
            let id = scope.record.id;
            // The part that the host keeps is counted from the requests that it has admitted by
            // now.
            let word = DayCount(self.plane.state(id).day_count);
            if word.day() == recall.day {
                let counted = member
                    .leases
                    .count(now, id, recall.day, word.count(), false);
                steps.extend(counted);
            }
            match recall.demand {
                Demand::Leases(amount) => {
                    member.recalls += 1;
                    steps.extend(member.leases.recall(now, id, recall.day, amount));
                }
                Demand::Counts => member.leases.report_count(now, id, recall.day),
            }
        }
        let applied = self.apply(steps);
        self.wake_calls();
        applied
    }

    /// Records the time that calls took, and how many of them too few replicas have confirmed.
    pub(crate) fn note_exchange(&mut self, seconds: f64, unconfirmed: u64) {
        if let Some(member) = &mut self.fleet {
            member.seconds.observe(seconds);
            member.results.unconfirmed += unconfirmed;
            match unconfirmed {
                0 => member.unconfirmed_since = None,
                _ => {
                    member.unconfirmed_since.get_or_insert_with(Instant::now);
                }
            }
        }
    }

    /// Returns the text of a problem if too few replicas have confirmed calls for five seconds.
    pub(crate) fn unconfirmed_problem(&self, now: Instant) -> Option<String> {
        let since = self.fleet.as_ref()?.unconfirmed_since?;
        (now.saturating_duration_since(since) >= AWAY).then(|| {
            "too few replicas of the engine confirm leases, so this host uses no new ones: look at \
             the engine's replication"
                .to_owned()
        })
    }

    /// Makes this host report all its leases.
    pub(crate) fn report_leases(&mut self) {
        if let Some(member) = &mut self.fleet {
            member.leases.report_all(Instant::now());
        }
        self.wake_calls();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recall_is_read_as_it_is_written() {
        for (_, demand) in DEMANDS {
            let text = RecallText {
                host: "4f".to_owned(),
                day: Day(20_781),
                demand,
                scope: "acme/web".parse().unwrap(),
            };
            assert_eq!(text.to_string().parse(), Ok(text));
        }
        for text in [
            "",
            "4f 20781 all",
            "4f x all acme",
            "4f 1 some acme",
            "4f 1 all A B",
        ] {
            assert_eq!(text.parse::<RecallText>(), Err(NotRecall), "{text}");
        }
    }
}
