//! What surrounds the program: the installer, units, the package, completions, the manual page.

mod cron;
mod installed;
mod publishing;
mod shells;
