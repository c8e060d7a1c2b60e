// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Global functions, which the verifier checks only once. The verifier checks every other function
//! once for each path that leads to a call to that function, and then continues to the end of the
//! program.
//!
//! The arguments of a global function can only be the context and numbers, so the function has to
//! look up the memory that its caller works on. The caller has references to the same memory, and
//! lends it to the global function during the call. To enforce that, the macro `global` defines,
//! for each global function, a function that takes these references. `Work` and `Flow` are not
//! `Unpin`, because for such types the compiler does not assume that a mutable reference is the
//! only access to the memory. (`UnsafePinned` of Rust RFC 3467 will express the same.)

/// A type that a global function can return.
pub trait Scalar: Copy {
    type Number;
    fn number(self) -> Self::Number;
    fn of(number: Self::Number) -> Self;
}

impl Scalar for u32 {
    type Number = u32;
    #[inline(always)]
    fn number(self) -> u32 {
        self
    }
    #[inline(always)]
    fn of(number: u32) -> Self {
        number
    }
}

impl Scalar for u64 {
    type Number = u64;
    #[inline(always)]
    fn number(self) -> u64 {
        self
    }
    #[inline(always)]
    fn of(number: u64) -> Self {
        number
    }
}

impl Scalar for i32 {
    type Number = i32;
    #[inline(always)]
    fn number(self) -> i32 {
        self
    }
    #[inline(always)]
    fn of(number: i32) -> Self {
        number
    }
}

impl Scalar for bool {
    type Number = i32;
    #[inline(always)]
    fn number(self) -> i32 {
        i32::from(self)
    }
    #[inline(always)]
    fn of(number: i32) -> Self {
        number != 0
    }
}

/// A global function has to return a number, even if its caller does not need one.
impl Scalar for () {
    type Number = i32;
    #[inline(always)]
    fn number(self) -> i32 {
        0
    }
    #[inline(always)]
    fn of(_: i32) {}
}

/// Defines global functions, each with a safe function of the same name that calls it.
///
/// `limiter_name(skb, work, flow; arguments) -> Type = body, or value;` calls `body(skb, work,
/// flow, arguments)`. The arguments before the semicolon are the packet, this CPU's
/// [`Work`](crate::kernel::work::Work) and the packet's flow, and some of them may be left out. The
/// global function looks up `work` and `flow`, and returns `value` if one of them does not exist.
/// The packet's flow is the one with the key `Packet::key`, and the caller holds its lock.
macro_rules! global {
    () => {};
    (
        $(#[$doc:meta])*
        $vis:vis fn $name:ident(; $($arg:ident: $type:ty),*) -> $result:ty = $body:path;
        $($rest:tt)*
    ) => {
        $(#[$doc])*
        #[inline(always)]
        $vis fn $name($($arg: $type),*) -> $result {
            use $crate::kernel::global::Scalar;
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name($($arg: $type),*) -> <$result as Scalar>::Number {
                Scalar::number($body($($arg),*))
            }
            Scalar::of($name($($arg),*))
        }
        $crate::kernel::global::global!($($rest)*);
    };
    (
        $(#[$doc:meta])*
        $vis:vis fn $name:ident(work; $($arg:ident: $type:ty),*) -> $result:ty = $body:path,
            or $none:expr;
        $($rest:tt)*
    ) => {
        $(#[$doc])*
        #[inline(always)]
        $vis fn $name(work: &mut $crate::kernel::work::Work, $($arg: $type),*) -> $result {
            use $crate::kernel::{global::Scalar, maps};
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name($($arg: $type),*) -> <$result as Scalar>::Number {
                let Some(work) = maps::work() else {
                    return <$result as Scalar>::number($none);
                };
                <$result as Scalar>::number($body(work, $($arg),*))
            }
            let _lent = work;
            <$result as Scalar>::of($name($($arg),*))
        }
        $crate::kernel::global::global!($($rest)*);
    };
    (
        $(#[$doc:meta])*
        $vis:vis fn $name:ident(work, flow; $($arg:ident: $type:ty),*) -> $result:ty = $body:path,
            or $none:expr;
        $($rest:tt)*
    ) => {
        $(#[$doc])*
        #[inline(always)]
        $vis fn $name(
            work: &mut $crate::kernel::work::Work,
            flow: &mut limiter_common::abi::Flow,
            $($arg: $type),*
        ) -> $result {
            use $crate::kernel::{global::Scalar, maps};
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name($($arg: $type),*) -> <$result as Scalar>::Number {
                let Some(work) = maps::work() else {
                    return <$result as Scalar>::number($none);
                };
                let Some(flow) = maps::lent_flow(&work.packet.key) else {
                    return <$result as Scalar>::number($none);
                };
                <$result as Scalar>::number($body(work, flow, $($arg),*))
            }
            let _lent = (work, flow);
            <$result as Scalar>::of($name($($arg),*))
        }
        $crate::kernel::global::global!($($rest)*);
    };
    (
        $(#[$doc:meta])*
        $vis:vis fn $name:ident(skb; $($arg:ident: $type:ty),*) -> $result:ty = $body:path;
        $($rest:tt)*
    ) => {
        $(#[$doc])*
        #[inline(always)]
        $vis fn $name(skb: $crate::kernel::skb::Skb, $($arg: $type),*) -> $result {
            use $crate::kernel::{global::Scalar, skb::Skb};
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name(
                skb: *mut aya_ebpf::bindings::__sk_buff,
                $($arg: $type),*
            ) -> <$result as Scalar>::Number {
                // SAFETY: the caller passes its context.
                let skb = unsafe { Skb::at(skb) };
                Scalar::number($body(skb, $($arg),*))
            }
            Scalar::of($name(skb.context(), $($arg),*))
        }
        $crate::kernel::global::global!($($rest)*);
    };
    (
        $(#[$doc:meta])*
        $vis:vis fn $name:ident(skb, work; $($arg:ident: $type:ty),*) -> $result:ty = $body:path,
            or $none:expr;
        $($rest:tt)*
    ) => {
        $(#[$doc])*
        #[inline(always)]
        $vis fn $name(
            skb: $crate::kernel::skb::Skb,
            work: &mut $crate::kernel::work::Work,
            $($arg: $type),*
        ) -> $result {
            use $crate::kernel::{global::Scalar, maps, skb::Skb};
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name(
                skb: *mut aya_ebpf::bindings::__sk_buff,
                $($arg: $type),*
            ) -> <$result as Scalar>::Number {
                let Some(work) = maps::work() else {
                    return <$result as Scalar>::number($none);
                };
                // SAFETY: the caller passes its context.
                let skb = unsafe { Skb::at(skb) };
                <$result as Scalar>::number($body(skb, work, $($arg),*))
            }
            let _lent = work;
            <$result as Scalar>::of($name(skb.context(), $($arg),*))
        }
        $crate::kernel::global::global!($($rest)*);
    };
    (
        $(#[$doc:meta])*
        $vis:vis fn $name:ident(skb, work, flow; $($arg:ident: $type:ty),*) -> $result:ty
            = $body:path, or $none:expr;
        $($rest:tt)*
    ) => {
        $(#[$doc])*
        #[inline(always)]
        $vis fn $name(
            skb: $crate::kernel::skb::Skb,
            work: &mut $crate::kernel::work::Work,
            flow: &mut limiter_common::abi::Flow,
            $($arg: $type),*
        ) -> $result {
            use $crate::kernel::{global::Scalar, maps, skb::Skb};
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name(
                skb: *mut aya_ebpf::bindings::__sk_buff,
                $($arg: $type),*
            ) -> <$result as Scalar>::Number {
                let Some(work) = maps::work() else {
                    return <$result as Scalar>::number($none);
                };
                let Some(flow) = maps::lent_flow(&work.packet.key) else {
                    return <$result as Scalar>::number($none);
                };
                // SAFETY: the caller passes its context.
                let skb = unsafe { Skb::at(skb) };
                <$result as Scalar>::number($body(skb, work, flow, $($arg),*))
            }
            let _lent = (work, flow);
            <$result as Scalar>::of($name(skb.context(), $($arg),*))
        }
        $crate::kernel::global::global!($($rest)*);
    };
}

pub(crate) use global;
