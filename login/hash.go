package login

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"
	"golang.org/x/crypto/argon2"

	"devicetrust/api"
)

// params are argon2id's (RFC 9106).
type params struct {
	memory  uint32 // KiB
	passes  uint32
	threads uint8
}

// recommended is RFC 9106 section 4's second choice, for machines that cannot
// spare 2 GiB. A stored hash with others is replaced at the next login.
var recommended = params{memory: 64 << 10, passes: 3, threads: 4}

const (
	saltLen = 16
	keyLen  = 32
)

// hash is a stored password in the PHC string format:
// $argon2id$v=19$m=65536,t=3,p=4$SALT$KEY, base64 without padding.
type hash struct {
	params
	salt, key []byte
}

func (h hash) String() string {
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s",
		argon2.Version, h.memory, h.passes, h.threads, b64(h.salt), b64(h.key))
}

var errHash = errors.New("login: a stored password hash is not one of ours")

// parseHash reads what String writes, and nothing else.
func parseHash(text string) (hash, error) {
	if len(text) > maxHashText {
		return hash{}, errHash
	}
	parts := strings.Split(text, "$")
	if len(parts) != 6 {
		return hash{}, errHash
	}
	var h hash
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.memory, &h.passes, &h.threads); err != nil {
		return hash{}, errHash
	}
	var saltErr, keyErr error
	h.salt, saltErr = base64.RawStdEncoding.Strict().DecodeString(parts[4])
	h.key, keyErr = base64.RawStdEncoding.Strict().DecodeString(parts[5])
	switch {
	case saltErr != nil || keyErr != nil || len(h.salt) < saltLen || len(h.key) < keyLen,
		h.memory > maxHashMemoryKiB || h.passes < 1 || h.passes > maxHashPasses,
		h.threads < 1 || h.threads > maxHashThreads || h.memory < 8*uint32(h.threads),
		h.String() != text: // the version, spaces, leading zeros, signs
		return hash{}, errHash
	}
	return h, nil
}

// hasher computes hashes, a bounded number at once.
type hasher struct {
	params params
	derive func(password, salt []byte, p params, keyLen uint32) []byte
	dummy  hash
	queue  chan struct{} // one place for each that runs or waits
	slots  chan struct{} // one for each that runs
}

func newHasher(p params) *hasher {
	return &hasher{
		params: p,
		derive: func(password, salt []byte, p params, keyLen uint32) []byte {
			return argon2.IDKey(password, salt, p.passes, p.memory, p.threads, keyLen)
		},
		dummy: hash{params: p, salt: make([]byte, saltLen), key: make([]byte, keyLen)},
		queue: make(chan struct{}, concurrentHashes+waitingHashes),
		slots: make(chan struct{}, concurrentHashes),
	}
}

// run computes one key when its turn comes. It refuses
// (CodeResourceExhausted) where too many wait.
func (h *hasher) run(ctx context.Context, password string, like hash) ([]byte, error) {
	select {
	case h.queue <- struct{}{}:
		defer func() { <-h.queue }()
	default:
		return nil, api.Refuse(connect.CodeResourceExhausted, "too many people are logging in at once").
			WithHint("Try again in a few seconds")
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return h.derive([]byte(password), like.salt, like.params, uint32(len(like.key))), nil
}

// create hashes a new password. One that is too short or too long is refused
// (CodeInvalidArgument).
func (h *hasher) create(ctx context.Context, password Secret) (string, error) {
	if err := checkNew(password); err != nil {
		return "", err
	}
	made := hash{params: h.params, salt: make([]byte, saltLen), key: make([]byte, keyLen)}
	rand.Read(made.salt) // never fails (crypto/rand)
	key, err := h.run(ctx, password.text, made)
	if err != nil {
		return "", err
	}
	made.key = key
	return made.String(), nil
}

// matches tells whether password is the one in stored. Where there is none,
// stored is empty, and the same work is done to find that nothing matches it.
func (h *hasher) matches(ctx context.Context, stored string, password Secret) (bool, error) {
	want, possible := h.dummy, stored != ""
	if possible {
		var err error
		if want, err = parseHash(stored); err != nil {
			return false, err
		}
	}
	text := password.text
	if len(text) > maxPassword { // none is stored, so it may be cut before the work
		text, possible = text[:maxPassword], false
	}
	got, err := h.run(ctx, text, want)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(got, want.key) == 1 && possible, nil
}

// outdated tells whether stored was made with other parameters than a new
// hash would be.
func (h *hasher) outdated(stored string) bool {
	old, err := parseHash(stored)
	return err == nil && old.params != h.params
}

func checkNew(password Secret) error {
	if n := len(password.text); n < minPassword || n > maxPassword {
		return api.Refuse(connect.CodeInvalidArgument,
			"a password has %d to %d bytes, and this one has %d", minPassword, maxPassword, n)
	}
	return nil
}
