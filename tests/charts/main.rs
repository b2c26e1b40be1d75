//! The charts as the real helm renders them: what they give, what they run, and what values they take. No cluster is needed.

mod helm;
mod manifest;
mod rights;
mod values;
mod workloads;
