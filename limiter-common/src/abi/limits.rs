// SPDX-License-Identifier: MIT OR Apache-2.0

//! The limits of scopes, and their leases.

/// The value of the map `LIMITS` (array by scope id, `BPF_F_MMAPABLE`): the limits that apply until
/// `until_s`. The daemon writes them one 64-bit word at a time. [`Ended`] has the later ones.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The maximum number of requests that are admitted in a UTC day; `UNLIMITED` for no limit.
    pub daily_quota: u64,
    /// The interval between two requests at the full rate, in ns; 0 for no limit.
    pub interval_ns: u64,
    /// The maximum time by which a request may be ahead of the schedule, in ns: `(burst - 1) *
    /// interval_ns`.
    pub tolerance_ns: u64,
    /// The maximum number of requests in flight; `UNLIMITED` for no limit.
    pub concurrency: u64,
    /// The maximum number of open connections; `UNLIMITED` for no limit.
    pub connections: u64,
    /// `LIMITS_*` flags.
    pub flags: u32,
    /// The text set for refusals (see [`super::TextKey`]).
    pub text_set: u32,
    /// The allowance, as a [`crate::day::DayCount`]: the day, and the number of requests that the
    /// store has recorded for this day in advance. Until [`super::Clock::attended_until_ns`], a
    /// request beyond the allowance is held, which means that it is dropped and TCP retransmits it.
    /// Therefore no request that was admitted before this time is missing from the store after a
    /// crash. After this time, [`super::Config::unattended`] applies.
    pub allowed: u64,
    /// The number of requests that are admitted on a new day before the store has a record of that
    /// day; 0 if `allowed` is not enforced.
    pub ahead: u32,
    /// The time from which the limits in `ENDED` apply instead of these, in seconds since the Unix
    /// epoch (UTC); 0 for never.
    pub until_s: u32,
}

/// The maximum number of times at which the limits of a scope change by themselves: each of the
/// five limits of a scope's own may have an end.
pub const ENDS: usize = 5;

/// The value of the map `ENDED` (hash by scope id): the limits that apply from [`Limits::until_s`]
/// on. Each of these stages applies until its own `until_s`, and the next one from then on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// The stages in the order of their times. The last one has no end. Those after it are unused.
    pub stages: [Limits; ENDS],
}

impl Limits {
    /// Returns whether the limits still apply at `utc_ns`, a time in ns since the Unix epoch.
    #[inline(always)]
    #[must_use]
    pub const fn apply_at(until_s: u32, utc_ns: u64) -> bool {
        until_s == 0 || utc_ns < until_s as u64 * 1_000_000_000
    }
}

/// The value for no limit in the fields of [`Limits`] whose comments mention it.
pub const UNLIMITED: u64 = u64::MAX;
/// The entry belongs to a scope.
pub const LIMITS_IN_USE: u32 = 1;
/// Requests of this scope are never refused, and those that would otherwise be refused are counted.
pub const LIMITS_OBSERVE: u32 = 2;

/// The scope shares its daily quota with other hosts. [`Limits::allowed`] is enforced whether or
/// not a daemon runs, and on another day than that of `allowed`, the [`Lease`] applies instead of
/// [`Limits::ahead`].
pub const LIMITS_LEASED: u32 = 4;

/// The value of the map `LEASES` (array by scope id, `BPF_F_MMAPABLE`): the number of requests of a
/// shared daily quota that this host may admit. The daemon never sets [`Limits::allowed`] to more
/// than the lease, and writes this value one 64-bit word at a time. If the host belongs to no
/// fleet, the map has only one entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// A day and the number of requests of this day that may be admitted, as a
    /// [`crate::day::DayCount`].
    pub current: u64,
    /// The same for a later day. On any other day, nothing is admitted.
    pub next: u64,
    /// The time on `CLOCK_BOOTTIME`, in ns, until which requests beyond `current` are refused; 0 if
    /// they are held. After this time, they are held while the daemon asks for a longer lease.
    /// [`REFUSED_ALL_DAY`] means until midnight UTC. This field applies only to the day of
    /// `current`. If no daemon runs, requests beyond the lease are refused in any case.
    pub refused_until_ns: u64,
}

/// The value of [`Lease::refused_until_ns`] if the quota is used up.
pub const REFUSED_ALL_DAY: u64 = u64::MAX;

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Limits>() == 64 && size_of::<Ended>() == 64 * ENDS);
    assert!(size_of::<Lease>() == 24 && offset_of!(Lease, refused_until_ns) == 16);
};
