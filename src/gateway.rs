//! The composition point: build, bind, start, drain, stop.
