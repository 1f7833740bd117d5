package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/store"
)

// The numbers in the comments of this file and of user.go are those of
// docs/issuing.md.

// prepared is a request that was looked at and may be recorded. Only
// prepareUser and prepareNode make one.
type prepared struct {
	holder      holder
	sshKey      ssh.PublicKey
	tlsKey      crypto.PublicKey
	tlsDER      []byte
	authority   ssh.Signer
	now         time.Time
	validBefore time.Time
	// encodeSSH and encodeTLS give what is signed, once the serials are known.
	encodeSSH func(serial uint64) (*ssh.Certificate, error)
	encodeTLS func(serial uint64) (*x509.Certificate, error)
	event     event.Event
}

// recorded is a pair of certificates whose record is committed. Only record
// makes one; sign spends it.
type recorded struct {
	ssh       *ssh.Certificate
	tls       *x509.Certificate
	tlsKey    crypto.PublicKey
	authority ssh.Signer
	serials   []uint64
	event     event.Event
	spent     atomic.Bool
}

// signed is what may be handed out after it was read back.
type signed struct {
	ssh *ssh.Certificate
	tls *x509.Certificate
}

var errNoCheck = errors.New("ca: nothing checks whether this may be issued")

// record writes down what will be signed, in one transaction with check: the
// caller's last look at whether the certificates are still due.
func (c *CA) record(ctx context.Context, p prepared, check func(tx *store.Tx) error) (*recorded, error) {
	if check == nil {
		return nil, errNoCheck
	}
	r := &recorded{tlsKey: p.tlsKey, authority: p.authority}
	err := c.write(ctx, func(tx *store.Tx) error {
		// 2. The caller's check, in the transaction that records.
		if err := check(tx); err != nil {
			return err
		}
		// 3. Serials, and with them what is to be signed.
		first, err := nextSerials(tx, 2)
		if err != nil {
			return err
		}
		r.serials = []uint64{first, first + 1}
		if r.ssh, err = p.encodeSSH(r.serials[0]); err != nil {
			return err
		}
		if r.tls, err = p.encodeTLS(r.serials[1]); err != nil {
			return err
		}
		// 4. The inventory's rows and the audit record.
		if err := c.insert(tx, p, r.serials); err != nil {
			return err
		}
		e := p.event
		e.Success, e.Serials = true, r.serials
		r.event, err = c.log.Record(tx, e)
		return err
	})
	// 5. The commit. Where its outcome is not known to be good, there is
	// nothing that could be signed.
	if err != nil {
		return nil, err
	}
	return r, nil
}

// sign spends r.
func (c *CA) sign(r *recorded) (signed, error) {
	if r.spent.Swap(true) {
		return signed{}, errors.New("ca: this record was signed before")
	}
	// 6. Sign, once.
	if err := signSSH(r.ssh, r.authority); err != nil {
		return signed{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, r.tls, c.root, r.tlsKey, c.tls)
	if err != nil {
		return signed{}, fmt.Errorf("ca: %w", err)
	}
	return readBack(r.ssh, der)
}

func signSSH(cert *ssh.Certificate, authority ssh.Signer) error {
	if err := cert.SignCert(rand.Reader, authority); err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	return nil
}

// readBack parses what a client would receive.
func readBack(cert *ssh.Certificate, der []byte) (signed, error) {
	key, err := ssh.ParsePublicKey(cert.Marshal())
	if err != nil {
		return signed{}, fmt.Errorf("ca: own SSH certificate: %w", err)
	}
	back, ok := key.(*ssh.Certificate)
	if !ok {
		return signed{}, errors.New("ca: own SSH certificate is none")
	}
	tls, err := x509.ParseCertificate(der)
	if err != nil {
		return signed{}, fmt.Errorf("ca: own X.509 certificate: %w", err)
	}
	return signed{ssh: back, tls: tls}, nil
}

// refused records that nothing was issued because of what err tells people;
// faults of the store cannot be written to it.
func (c *CA) refused(ctx context.Context, e event.Event, err error) error {
	var r *api.Refusal
	if !errors.As(err, &r) {
		return err
	}
	e.Success, e.Message = false, r.Message
	if failed := c.log.RecordAlone(ctx, e); failed != nil {
		// Not as a cause: the refusal in it would be all that is told.
		return fmt.Errorf("ca: a refusal could not be recorded: %w; it was: %v", failed, err) //nolint:errorlint // see above
	}
	return err
}

// withdraw revokes what was recorded and then could not be signed or did not
// read back, and records that. Nobody holds those certificates; a serial that
// the inventory calls good and nobody knows would still be a lie.
func (c *CA) withdraw(ctx context.Context, r *recorded, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), aftermath)
	defer cancel()
	err := c.write(ctx, func(tx *store.Tx) error {
		for _, serial := range r.serials {
			if _, err := c.revoke(tx, "serial = $3", int64(serial), "could not be signed"); err != nil {
				return err
			}
		}
		e := r.event
		e.Success, e.Message = false, cause.Error()
		_, err := c.log.Record(tx, e)
		return err
	})
	return errors.Join(cause, err)
}
