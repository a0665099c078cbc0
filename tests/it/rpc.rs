//! The wire, over real sockets, before a stub of KeyService: what is tested here is what stands
//! between a client and the use cases.

mod calls;
mod endpoints;
mod json;
mod judging;
mod limits;
mod serving;
mod stub;
