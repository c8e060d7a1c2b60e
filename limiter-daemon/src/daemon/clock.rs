//! Publishing what the kernel program adds to the boot clock for UTC.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering::SeqCst},
};

use limiter_common::abi::Clock;
use tokio::io::unix::AsyncFd;

use super::engine::{Attended, UtcOffset};
use crate::kernel::KernelError;

/// How often both clocks are read for one sample: the pair with the least time between is kept.
const SAMPLES: u32 = 5;
const NS_PER_SECOND: i128 = 1_000_000_000;

/// Who takes the clock.
pub trait PublishClock: Send {
    /// What is published now.
    ///
    /// # Errors
    /// The kernel's.
    fn published(&self) -> Result<Clock, KernelError>;

    /// Publishes.
    ///
    /// # Errors
    /// The kernel's.
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

fn read(clock: libc::clockid_t) -> i128 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid `timespec`. Both clocks used here always exist (clock_gettime(2); boot
    // time since 2.6.39), so the result needs no check.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    i128::from(time.tv_sec) * NS_PER_SECOND + i128::from(time.tv_nsec)
}

/// CLOCK_REALTIME less CLOCK_BOOTTIME, ns. Wrapping as the kernel program's addition does,
/// should the host's clock stand before its boot.
pub fn utc_offset_ns() -> u64 {
    let mut best = (i128::MAX, 0);
    for _ in 0..SAMPLES {
        let before = read(libc::CLOCK_BOOTTIME);
        let utc = read(libc::CLOCK_REALTIME);
        let after = read(libc::CLOCK_BOOTTIME);
        let width = after - before;
        if width < best.0 {
            best = (width, utc - (before + width / 2));
        }
    }
    u64::try_from(best.1.rem_euclid(1 << 64)).unwrap_or(0)
}

/// The clock's publisher; independent of the daemon's other work, which may take its time.
pub struct ClockPublisher {
    map: Mutex<Box<dyn PublishClock>>,
    offset: UtcOffset,
    attended: Attended,
    problem: Mutex<Option<String>>,
}

impl ClockPublisher {
    /// Publishes to `map`, and to `offset` for the daemon itself; `attended` goes to `map` with it.
    pub fn new(map: Box<dyn PublishClock>, offset: UtcOffset, attended: Attended) -> Self {
        Self {
            map: Mutex::new(map),
            offset,
            attended,
            problem: Mutex::new(None),
        }
    }

    /// Reads the clocks and publishes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn publish(&self) -> Result<(), KernelError> {
        self.publish_with(|_| {})
    }

    /// From now on for `ns`, connections that are not known are refused.
    ///
    /// # Errors
    /// The kernel's.
    pub fn refuse_strangers_for(&self, ns: u64) -> Result<(), KernelError> {
        let now = u64::try_from(read(libc::CLOCK_BOOTTIME)).unwrap_or(0);
        let until = now.saturating_add(ns);
        self.publish_with(|clock| {
            clock.refuse_strangers_until_ns = clock.refuse_strangers_until_ns.max(until);
        })
    }

    fn publish_with(&self, change: impl FnOnce(&mut Clock)) -> Result<(), KernelError> {
        let published = self.try_publish(change);
        *lock(&self.problem) = published.as_ref().err().map(ToString::to_string);
        published
    }

    fn try_publish(&self, change: impl FnOnce(&mut Clock)) -> Result<(), KernelError> {
        // Held from reading to writing: two threads publish. What stands there already is kept,
        // also that of a daemon before this one.
        let mut map = lock(&self.map);
        let utc_offset_ns = utc_offset_ns();
        self.offset.store(utc_offset_ns, SeqCst);
        let mut clock = Clock {
            utc_offset_ns,
            attended_until_ns: self.attended.load(SeqCst),
            ..map.published()?
        };
        change(&mut clock);
        map.publish(clock)
    }

    /// Whether the kernel holds requests to what the store allows, by what is published.
    pub fn is_attended(&self) -> bool {
        let now = u64::try_from(read(libc::CLOCK_BOOTTIME)).unwrap_or(0);
        let published = lock(&self.map).published();
        published.is_ok_and(|clock| now < clock.attended_until_ns)
    }

    /// The daemon goes: from now on nobody answers for the store.
    ///
    /// # Errors
    /// The kernel's.
    pub fn leave(&self) -> Result<(), KernelError> {
        self.attended.store(0, SeqCst);
        self.publish()
    }

    /// Why the last publication failed, if it did.
    pub fn problem(&self) -> Option<String> {
        lock(&self.problem).clone()
    }
}

/// What is locked here is whole whenever a thread could panic.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells when the system's clock is set, by a timer that is cancelled by that
/// (timerfd_create(2), `TFD_TIMER_CANCEL_ON_SET`).
pub struct ClockSet {
    timer: AsyncFd<OwnedFd>,
}

impl ClockSet {
    /// A watch; within a tokio runtime.
    ///
    /// # Errors
    /// The system has no timer to give.
    pub fn new() -> io::Result<Self> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: a plain system call; the result is checked.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_REALTIME, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and is nobody else's.
        let timer = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: the timer's descriptor stays open and the same as long as the `OwnedFd` lives,
        // which only the `AsyncFd` holds.
        let timer = unsafe { AsyncFd::register(timer) }?;
        let watch = Self { timer };
        watch.arm()?;
        Ok(watch)
    }

    fn arm(&self) -> io::Result<()> {
        // Far enough away never to come: this timer is only ever cancelled. Not the largest
        // value there is, which older kernels take for an overflow.
        let never = libc::timespec {
            tv_sec: 1 << 32,
            tv_nsec: 0,
        };
        let none = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let when = libc::itimerspec {
            it_interval: none,
            it_value: never,
        };
        let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
        // SAFETY: a live timer and a valid `itimerspec`; the old value is not asked for.
        let done = unsafe {
            libc::timerfd_settime(
                self.timer.as_raw_fd(),
                flags,
                &raw const when,
                std::ptr::null_mut(),
            )
        };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Returns when the clock has been set.
    ///
    /// # Errors
    /// The timer fails.
    pub async fn wait(&self) -> io::Result<()> {
        loop {
            let mut ready = self.timer.readable().await?;
            let read = ready.try_io(|timer| {
                let mut expirations = 0u64;
                // SAFETY: a buffer of eight bytes, as timerfd wants it.
                let count = unsafe {
                    libc::read(
                        timer.as_raw_fd(),
                        (&raw mut expirations).cast(),
                        size_of::<u64>(),
                    )
                };
                if count < 0 {
                    Err(io::Error::last_os_error())
                } else {
                    Ok(())
                }
            });
            match read {
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ECANCELED) => {
                    self.arm()?;
                    return Ok(());
                }
                Ok(Err(error)) => return Err(error),
                // The far end was reached after all.
                Ok(Ok(())) => self.arm()?,
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicU64};

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
    fn how_long_strangers_are_refused_outlives_a_second_and_the_daemon() {
        let map = Arc::new(Mutex::new(Clock::default()));
        let daemon = || {
            let offset = Arc::new(AtomicU64::new(0));
            ClockPublisher::new(Box::new(Map(Arc::clone(&map))), offset, Arc::default())
        };
        let now = || u64::try_from(read(libc::CLOCK_BOOTTIME)).unwrap();
        let before = now();
        daemon().refuse_strangers_for(1000).unwrap();
        let until = map.lock().unwrap().refuse_strangers_until_ns;
        assert!((before + 1000..=now() + 1000).contains(&until));
        let next = daemon();
        next.publish().unwrap();
        assert_eq!(map.lock().unwrap().refuse_strangers_until_ns, until);
        assert_ne!(map.lock().unwrap().utc_offset_ns, 0);
        // Never sooner than was said before.
        map.lock().unwrap().refuse_strangers_until_ns = u64::MAX;
        next.refuse_strangers_for(1).unwrap();
        assert_eq!(map.lock().unwrap().refuse_strangers_until_ns, u64::MAX);
    }

    #[test]
    fn the_offset_makes_utc_of_the_boot_clock() {
        let boot = read(libc::CLOCK_BOOTTIME);
        let utc = read(libc::CLOCK_REALTIME);
        let made = boot + i128::from(utc_offset_ns());
        assert!((made - utc).abs() < NS_PER_SECOND, "{made} is not {utc}");
    }
}
