//! Faults planted in the protocol, for the tests: the simulation has to find each of them. A release build has none.

/// Plants a fault, by its name, on the present thread; `None` takes it out again.
#[cfg(debug_assertions)]
pub fn plant(name: Option<&'static str>) {
    PLANTED.set(name);
}

#[cfg(debug_assertions)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

/// A fault in a whole process, named by its environment.
#[cfg(debug_assertions)]
static EVERYWHERE: std::sync::LazyLock<Option<String>> =
    std::sync::LazyLock::new(|| std::env::var("PG2CH_MUTANT").ok());

/// Whether this fault is planted.
#[cfg(debug_assertions)]
#[must_use]
pub fn is(name: &str) -> bool {
    PLANTED.get() == Some(name) || EVERYWHERE.as_deref() == Some(name)
}

/// Never, in a release build.
#[cfg(not(debug_assertions))]
#[inline]
#[must_use]
pub const fn is(_name: &str) -> bool {
    false
}
