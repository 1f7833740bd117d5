package agent

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"
)

// lock keeps keys from being used until the passphrase is said again.
type lock struct {
	// mu is held while a passphrase is looked at, with the delay after a wrong
	// one: who tries many at once waits as long as for one after the other.
	mu       sync.Mutex
	salt     [16]byte
	hash     []byte // nil is unlocked
	failures int
	// wait is time.Sleep.
	wait func(time.Duration)
	// on tells whether there is a hash, to those that do not wait for mu.
	on atomic.Bool
}

// hashPassphrase takes about 10 ms and 8 MiB, one at a time.
func hashPassphrase(passphrase, salt []byte) []byte {
	return argon2.IDKey(passphrase, salt, 1, 8<<10, 1, 32)
}

// lock reports false where it is locked already, or without a passphrase.
func (l *lock) lock(passphrase []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hash != nil || len(passphrase) == 0 {
		return false
	}
	_, _ = rand.Read(l.salt[:]) // never fails (crypto/rand)
	l.hash = hashPassphrase(passphrase, l.salt[:])
	l.on.Store(true)
	return true
}

// unlock answers later with each failure. The delay is not cut short by who
// hangs up.
func (l *lock) unlock(ctx context.Context, passphrase []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hash == nil || len(passphrase) == 0 || ctx.Err() != nil {
		return false
	}
	if subtle.ConstantTimeCompare(hashPassphrase(passphrase, l.salt[:]), l.hash) == 1 {
		l.hash, l.failures = nil, 0
		l.on.Store(false)
		return true
	}
	l.failures = min(l.failures+1, maxUnlockFailures)
	l.wait(time.Duration(l.failures) * unlockDelay)
	return false
}
