//! The system clock, also after January 2038 on 32-bit processors with musl, whose `time_t` in Rust's standard library has
//! 32 bits: there `clock_gettime` fails for a later time and `SystemTime::now` panics. A camera need not live that long,
//! a wrong real-time clock suffices. [`since_1970`] reads 64 bits; dependencies, which ask the standard library, are told
//! the last second that it can hold. [`super::system_time`] and [`super::timestamp`] call this.

/// The system clock, since 1970; zero if it is before that.
#[cfg(not(all(target_env = "musl", target_pointer_width = "32")))]
pub(super) fn since_1970() -> std::time::Duration {
    // Through libc, so that whatever replaces a program's clock from outside replaces this one too.
    std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(all(target_env = "musl", target_pointer_width = "32"))]
pub(super) use narrow::since_1970;

#[cfg(all(target_env = "musl", target_pointer_width = "32"))]
mod narrow {
    #![allow(unsafe_code)]

    use std::{ffi::c_int, time::Duration};

    /// `struct timespec` as musl 1.2 has it on every 32-bit processor; little-endian, as all of ours are.
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Timespec64 {
        seconds: i64,
        nanoseconds: i32,
        padding: i32,
    }

    /// As the standard library declares it.
    #[repr(C)]
    struct Timespec32 {
        seconds: i32,
        nanoseconds: i32,
    }

    unsafe extern "C" {
        fn __clock_gettime64(clock: c_int, time: *mut Timespec64) -> c_int;
    }

    const REALTIME: c_int = 0;

    #[cfg(test)]
    thread_local! {
        /// Seconds that this thread's clocks are ahead.
        pub(super) static AHEAD: std::cell::Cell<i64> = const { std::cell::Cell::new(0) };
    }

    fn read(clock: c_int) -> Option<Timespec64> {
        let mut time = Timespec64::default();
        // SAFETY: the kernel writes one timespec, which is that large.
        if unsafe { __clock_gettime64(clock, &mut time) } != 0 {
            return None;
        }
        #[cfg(test)]
        {
            time.seconds += AHEAD.get();
        }
        Some(time)
    }

    pub(in crate::clock) fn since_1970() -> Duration {
        let time = read(REALTIME).unwrap_or_default();
        u64::try_from(time.seconds).map_or(Duration::ZERO, |seconds| Duration::new(seconds, time.nanoseconds.unsigned_abs()))
    }

    /// Takes the place of musl's function of this name, which the standard library calls; musl itself calls others.
    ///
    /// # Safety
    ///
    /// `time` points to a timespec.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut Timespec32) -> c_int {
        let Some(read) = read(clock) else { return -1 };
        let seconds = i32::try_from(read.seconds).unwrap_or(if read.seconds < 0 { i32::MIN } else { i32::MAX });
        // SAFETY: the caller's promise.
        unsafe { time.write(Timespec32 { seconds, nanoseconds: read.nanoseconds }) };
        0
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    #[test]
    fn the_system_clock_and_the_standard_library_agree() {
        let before = super::since_1970();
        let told = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert!(before <= told && told <= super::since_1970());
    }

    #[cfg(all(target_env = "musl", target_pointer_width = "32"))]
    #[test]
    fn after_january_2038_the_clock_goes_on_and_dependencies_do_not_panic() {
        let year = 365 * 86_400;
        let before = super::since_1970();
        super::narrow::AHEAD.set(60 * year as i64);
        let after = super::since_1970();
        let told = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let stamp = crate::clock::timestamp();
        let line = jiff::Timestamp::now();
        super::narrow::AHEAD.set(0);
        assert!((after - before).as_secs().abs_diff(60 * year) < 60, "{after:?} after {before:?}");
        assert_eq!(told.as_secs(), i32::MAX as u64);
        assert_eq!(line.as_second(), i64::from(i32::MAX));
        assert!(stamp.as_second() > i64::from(i32::MAX), "{stamp}");
    }
}
