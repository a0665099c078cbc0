//! Forward-auth through real proxies, configured as examples/ and the pages of docs/ have it; and what it
//! answers a proxy that cannot be had here.

mod behind;
mod direct;
mod examples;
mod pages;
mod parts;
mod proxies;
mod ways;
