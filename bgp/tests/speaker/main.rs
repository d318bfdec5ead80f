//! The speaker as a whole: sessions, routes and restarts between speakers in virtual time.

mod arrivals;
mod chaos;
mod collisions;
mod crossing;
mod explain;
mod faults;
mod history;
mod kernel;
mod limits;
mod live;
mod monitor;
mod offers;
mod others;
mod paths;
mod policy;
mod refresh;
mod restarts;
mod retune;
mod roles;
mod routes;
mod script;
mod sessions;
mod status;
mod table;
mod topology;
mod world;
