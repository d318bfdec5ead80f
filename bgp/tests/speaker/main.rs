//! The speaker as a whole: sessions, routes and restarts between speakers in virtual time.

mod arrivals;
mod chaos;
mod collisions;
mod explain;
mod faults;
mod kernel;
mod history;
mod policy;
mod restarts;
mod routes;
mod script;
mod sessions;
mod table;
mod world;
