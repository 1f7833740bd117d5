//go:build !linux

package client

// exchange puts the folder fresh in the place of dir; what was in dir is then
// at fresh.
func exchange(fresh, dir string) error { return moveInto(fresh, dir) }
