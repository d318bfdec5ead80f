//! Pods whose addresses follow their names, on several nodes around one API server.
