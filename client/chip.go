package client

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"devicetrust/devices/tpm"
)

// Chip is this machine's TPM as a process uses it: opened when it is needed,
// for one conversation at a time, and given back soon after. A command socket
// serves one program at a time, and a person has several terminals. Its methods
// may be called from many goroutines.
type Chip struct {
	// Address as tpm.Open takes it.
	Address string
	// Keep holds on to a TPM that programs share, which is a device: for a
	// process that signs all day.
	Keep bool
	// Waiting is called, once, where somebody has waited long for the TPM; nil
	// leaves it out.
	Waiting func()

	turn   chan struct{} // holds one token while nobody has the TPM
	waited sync.Once

	// Whoever has the token may touch these.
	open *tpm.TPM
	// idle gives the TPM back; nil where it is not open. So does over, also where
	// it is in use all the time.
	idle, over *time.Timer
}

// NewChip takes the TPM at address as tpm.Open does. It is opened later.
func NewChip(address string) *Chip {
	c := &Chip{Address: address, turn: make(chan struct{}, 1)}
	c.turn <- struct{}{}
	return c
}

// Use runs a conversation with the TPM, which is f's alone until it returns. f
// must not come back here, nor wait for what does: a TLS handshake may sign
// with a key that is in the TPM.
func (c *Chip) Use(ctx context.Context, f func(*tpm.TPM) error) error {
	t, err := c.take(ctx)
	if err != nil {
		return err
	}
	err = errFault // unless f returns
	defer func() { c.giveBack(err) }()
	err = f(t)
	return err
}

var errFault = errors.New("the conversation with the TPM had a fault")

// Reach tells whether the TPM can be opened.
func (c *Chip) Reach(ctx context.Context) error {
	return c.Use(ctx, func(*tpm.TPM) error { return nil })
}

// Sign signs the SHA-256 digest with k, as tpm.TPM.Sign does. A TPM that was
// reset or restarted since is opened again, and asked once more.
func (c *Chip) Sign(ctx context.Context, k tpm.LoginKey, digest []byte) (signature []byte, err error) {
	for range signAttempts {
		err = c.Use(ctx, func(t *tpm.TPM) error {
			signature, err = t.Sign(ctx, k, digest)
			return err
		})
		if err == nil || ctx.Err() != nil || errors.Is(err, tpm.ErrForeignKey) || errors.Is(err, context.DeadlineExceeded) {
			break
		}
	}
	return signature, err
}

// Close gives the TPM back now. It can be used again.
func (c *Chip) Close() error {
	<-c.turn
	defer func() { c.turn <- struct{}{} }()
	return c.closeLocked()
}

// take waits for the TPM and opens it where it is not open.
func (c *Chip) take(ctx context.Context) (*tpm.TPM, error) {
	defer time.AfterFunc(slowAfter, c.slow).Stop() // others may have it
	select {
	case <-c.turn:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if c.idle != nil {
		c.idle.Stop()
	}
	if c.open == nil {
		t, err := tpm.Open(ctx, c.Address, tpm.WhenSlow(c.slow))
		if err != nil {
			c.turn <- struct{}{}
			return nil, err
		}
		c.open = t
		if !c.keeps() {
			// Who waits for a token gets it in turn.
			c.over = time.AfterFunc(chipTurn, func() { _ = c.Close() })
		}
	}
	return c.open, nil
}

// giveBack ends a conversation, which ended with err. After a failure the TPM
// is opened again the next time: whatever was wrong with the line, or with
// what it has loaded, is gone then.
func (c *Chip) giveBack(err error) {
	defer func() { c.turn <- struct{}{} }()
	switch {
	case err != nil:
		_ = c.closeLocked() // the failure is known
	case c.keeps():
	case c.idle == nil:
		c.idle = time.AfterFunc(chipIdle, c.closeIdle)
	default:
		c.idle.Reset(chipIdle)
	}
}

func (c *Chip) keeps() bool { return c.Keep && tpm.Shared(c.Address) }

// closeIdle gives the TPM back unless somebody has it just now: then that one
// comes to it.
func (c *Chip) closeIdle() {
	select {
	case <-c.turn:
		_ = c.closeLocked() // nobody waits for it
		c.turn <- struct{}{}
	default:
	}
}

// closeLocked is for whoever has the token.
func (c *Chip) closeLocked() error {
	if c.idle != nil {
		c.idle.Stop()
		c.idle = nil
	}
	if c.over != nil {
		c.over.Stop()
		c.over = nil
	}
	if c.open == nil {
		return nil
	}
	t := c.open
	c.open = nil
	return t.Close()
}

// slow is called where somebody waits for the TPM.
func (c *Chip) slow() {
	if c.Waiting != nil {
		c.waited.Do(c.Waiting)
	}
}

// chipKey is a private key that is in a TPM.
type chipKey struct {
	chip   *Chip
	key    tpm.LoginKey
	public *ecdsa.PublicKey
	ctx    context.Context //nolint:containedctx // crypto.Signer has none
}

var _ crypto.Signer = (*chipKey)(nil)

func newChipKey(chip *Chip, k tpm.LoginKey) (*chipKey, error) {
	public, err := k.PublicKey()
	if err != nil {
		return nil, err
	}
	return &chipKey{chip, k, public, context.Background()}, nil
}

// within is k for signatures that end with ctx.
func (k *chipKey) within(ctx context.Context) *chipKey {
	bound := *k
	bound.ctx = ctx
	return &bound
}

// Public implements crypto.Signer.
func (k *chipKey) Public() crypto.PublicKey { return k.public }

// Sign implements crypto.Signer, which knows no context: the time it may take
// is bounded here.
func (k *chipKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != crypto.SHA256 || len(digest) != crypto.SHA256.Size() {
		return nil, fmt.Errorf("a key in the TPM signs digests of SHA-256, not %d bytes of %v", len(digest), opts.HashFunc())
	}
	ctx, cancel := context.WithTimeout(k.ctx, signTimeout)
	defer cancel()
	return k.chip.Sign(ctx, k.key, digest)
}

// notingKey remembers why it could not sign: crypto/tls makes text of it.
type notingKey struct {
	crypto.Signer
	failure atomic.Pointer[error]
}

// Sign implements crypto.Signer.
func (k *notingKey) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	signature, err := k.Signer.Sign(random, digest, opts)
	if err != nil {
		k.failure.Store(&err)
	} else {
		k.failure.Store(nil)
	}
	return signature, err
}

// failed is why the last signature failed; nil where it did not.
func (k *notingKey) failed() error {
	if err := k.failure.Load(); err != nil {
		return *err
	}
	return nil
}
