//! The speaker as a whole: sessions, routes and restarts between speakers in virtual time.

mod sessions;
mod world;
