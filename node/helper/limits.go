package helper

// maxRequest: NGROUPS_MAX groups are 256 KiB; a command and an environment are
// bounded by the node far below what execve(2) takes.
const maxRequest = 1 << 20
