// SPDX-License-Identifier: MIT OR Apache-2.0

//! Publication of the offset that the kernel programs add to the boot clock to get UTC, and of the
//! other times that they compare with that clock.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd, RawFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use limiter_common::abi::Clock;
use nix::{
    errno::Errno,
    sys::{
        time::TimeSpec,
        timerfd::{self, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
    time::{ClockId, clock_gettime},
    unistd::read,
};
use tokio::io::unix::AsyncFd;

use crate::{
    engine::time::ClockWords,
    kernel::{KernelError, boot_ns},
};

/// The number of times that both clocks are read. The offset is calculated from the reading that
/// took the shortest time.
const SAMPLES: u32 = 5;
const NS_PER_SECOND: i128 = 1_000_000_000;

/// Access to the map in which the clock is published.
pub trait PublishClock: Send {
    /// Returns the published clock.
    ///
    /// # Errors
    /// Returns an error if the kernel reports one.
    fn published(&self) -> Result<Clock, KernelError>;

    /// Publishes a clock.
    ///
    /// # Errors
    /// Returns an error if the kernel reports one.
    fn publish(&mut self, clock: Clock) -> Result<(), KernelError>;
}

impl PublishClock for crate::kernel::ClockMap {
    fn published(&self) -> Result<Clock, KernelError> {
        self.get()
    }

    fn publish(&mut self, clock: Clock) -> Result<(), KernelError> {
        self.set(clock)
    }
}

/// Returns the time of the clock in ns.
fn ns_of(clock: ClockId) -> i128 {
    // Reading cannot fail, because the two clocks always exist (clock_gettime(2)).
    let time = clock_gettime(clock).unwrap_or_else(|_| TimeSpec::new(0, 0));
    i128::from(time.tv_sec()) * NS_PER_SECOND + i128::from(time.tv_nsec())
}

/// Returns `CLOCK_REALTIME` minus `CLOCK_BOOTTIME` in ns. A negative difference wraps, as the
/// addition in the kernel programs does.
pub fn utc_offset_ns() -> u64 {
    let mut best = (i128::MAX, 0);
    for _ in 0..SAMPLES {
        let before = ns_of(ClockId::CLOCK_BOOTTIME);
        let utc = ns_of(ClockId::CLOCK_REALTIME);
        let after = ns_of(ClockId::CLOCK_BOOTTIME);
        let width = after - before;
        if width < best.0 {
            best = (width, utc - (before + width / 2));
        }
    }
    u64::try_from(best.1.rem_euclid(1 << 64)).unwrap_or(0)
}

/// The publisher of the clock. It does not lock the engine, so that the clock is published in time
/// even while the daemon's other work takes long.
pub struct ClockPublisher {
    map: Mutex<Box<dyn PublishClock>>,
    words: ClockWords,
    problem: Mutex<Option<String>>,
}

impl ClockPublisher {
    /// Returns a publisher that writes the UTC offset to `map` and to `words`. The publisher also
    /// copies to `map` the time in `words` until which the store is attended.
    pub fn new(map: Box<dyn PublishClock>, words: ClockWords) -> Self {
        Self {
            map: Mutex::new(map),
            words,
            problem: Mutex::new(None),
        }
    }

    /// Reads the clocks and publishes the offset.
    ///
    /// # Errors
    /// Returns an error if the kernel reports one.
    pub fn publish(&self) -> Result<(), KernelError> {
        self.publish_with(|_| {})
    }

    /// Makes the programs refuse untracked connections for the next `ns` nanoseconds. If the
    /// programs already refuse them until a later time, that time does not change.
    ///
    /// # Errors
    /// Returns an error if the kernel reports one.
    pub fn refuse_untracked_for(&self, ns: u64) -> Result<(), KernelError> {
        let until = boot_ns().saturating_add(ns);
        self.publish_with(|clock| {
            clock.refuse_untracked_until_ns = clock.refuse_untracked_until_ns.max(until);
        })
    }

    /// Lets untracked connections count as older than the limiter for the next `ns` nanoseconds.
    /// The value 0 ends such a period.
    ///
    /// # Errors
    /// Returns an error if the kernel reports one.
    pub fn expect_older_for(&self, ns: u64) -> Result<(), KernelError> {
        let until = if ns == 0 {
            0
        } else {
            boot_ns().saturating_add(ns)
        };
        self.publish_with(|clock| clock.older_until_ns = until)
    }

    /// Sets the maximum number of flows for each client address. The value 0 removes the limit.
    ///
    /// # Errors
    /// Returns an error if the kernel reports one.
    pub fn set_client_share(&self, flows: u64) -> Result<(), KernelError> {
        self.publish_with(|clock| clock.client_share = flows)
    }

    fn publish_with(&self, change: impl FnOnce(&mut Clock)) -> Result<(), KernelError> {
        let published = self.try_publish(change);
        *lock(&self.problem) = published.as_ref().err().map(ToString::to_string);
        published
    }

    fn try_publish(&self, change: impl FnOnce(&mut Clock)) -> Result<(), KernelError> {
        // The lock is held from reading the clock to writing it, because two threads publish the
        // clock. The other fields of the clock keep their values, even if a previous daemon wrote
        // them.
        let mut map = lock(&self.map);
        let utc_offset_ns = utc_offset_ns();
        self.words.set_utc_offset_ns(utc_offset_ns);
        let mut clock = Clock {
            utc_offset_ns,
            attended_until_ns: self.words.attended_until_ns(),
            ..map.published()?
        };
        change(&mut clock);
        map.publish(clock)
    }

    /// Returns whether the published clock makes the kernel hold requests to their allowances.
    pub fn is_attended(&self) -> bool {
        let published = lock(&self.map).published();
        published.is_ok_and(|clock| boot_ns() < clock.attended_until_ns)
    }

    /// Publishes that the store is no longer attended, because the daemon ends.
    ///
    /// # Errors
    /// Returns an error if the kernel reports one.
    pub fn leave(&self) -> Result<(), KernelError> {
        self.words.leave();
        self.publish()
    }

    /// Returns the error of the last publication, if the publication failed.
    pub fn problem(&self) -> Option<String> {
        lock(&self.problem).clone()
    }
}

/// Locks a mutex. A poisoned lock is still usable, because no panic leaves the values inconsistent.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A timer that tokio can wait for.
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Detects that the system's clock was set, which cancels the timer of the watch
/// (timerfd_create(2), `TFD_TIMER_CANCEL_ON_SET`).
pub struct ClockWatch(AsyncFd<Timer>);

impl ClockWatch {
    /// Starts the watch. This requires a tokio runtime.
    ///
    /// # Errors
    /// Returns an error if the system cannot create a timer.
    pub fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = Timer(TimerFd::new(timerfd::ClockId::CLOCK_REALTIME, flags)?);
        // SAFETY: `TimerFd` keeps its descriptor open and does not replace it while it lives. The
        // `AsyncFd` owns the only `Timer`.
        let timer = unsafe { AsyncFd::register(timer) }?;
        let watch = Self(timer);
        watch.arm()?;
        Ok(watch)
    }

    fn arm(&self) -> io::Result<()> {
        // The expiration time is too far away to be reached, and the timer can therefore only be
        // cancelled. It is not the maximum time, because older kernels treat the largest possible
        // value as an overflow.
        let never = Expiration::OneShot(TimeSpec::new(1 << 32, 0));
        let flags =
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        self.0.get_ref().0.set(never, flags)?;
        Ok(())
    }

    /// Waits until the clock has been set.
    ///
    /// # Errors
    /// Returns an error if the timer fails.
    pub async fn wait(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let expired = ready.try_io(|timer| {
                let mut expirations = [0; size_of::<u64>()];
                Ok(read(&timer.get_ref().0, &mut expirations)?)
            });
            match expired {
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::ECANCELED as i32) => {
                    self.arm()?;
                    return Ok(());
                }
                Ok(Err(error)) => return Err(error),
                Ok(Ok(_)) => self.arm()?,
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    struct Map(Arc<Mutex<Clock>>);

    impl PublishClock for Map {
        fn published(&self) -> Result<Clock, KernelError> {
            Ok(*self.0.lock().unwrap())
        }

        fn publish(&mut self, clock: Clock) -> Result<(), KernelError> {
            *self.0.lock().unwrap() = clock;
            Ok(())
        }
    }

    #[test]
    fn the_refusal_of_untracked_connections_outlives_a_second_and_the_daemon() {
        let map = Arc::new(Mutex::new(Clock::default()));
        let daemon = || {
            let map = Box::new(Map(Arc::clone(&map)));
            ClockPublisher::new(map, ClockWords::default())
        };
        let before = boot_ns();
        daemon().refuse_untracked_for(1000).unwrap();
        let until = map.lock().unwrap().refuse_untracked_until_ns;
        assert!((before + 1000..=boot_ns() + 1000).contains(&until));
        let next = daemon();
        next.publish().unwrap();
        assert_eq!(map.lock().unwrap().refuse_untracked_until_ns, until);
        assert_ne!(map.lock().unwrap().utc_offset_ns, 0);
        // If the programs already refuse them until a later time, that time does not change.
        map.lock().unwrap().refuse_untracked_until_ns = u64::MAX;
        next.refuse_untracked_for(1).unwrap();
        assert_eq!(map.lock().unwrap().refuse_untracked_until_ns, u64::MAX);
    }

    #[test]
    fn the_offset_makes_utc_of_the_boot_clock() {
        let boot = ns_of(ClockId::CLOCK_BOOTTIME);
        let utc = ns_of(ClockId::CLOCK_REALTIME);
        let made = boot + i128::from(utc_offset_ns());
        assert!((made - utc).abs() < NS_PER_SECOND, "{made} is not {utc}");
    }
}
