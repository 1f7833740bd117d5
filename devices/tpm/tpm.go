// Package tpm is a machine's half of the device ceremonies: the conversation
// with its TPM 2.0, and the file that remembers its enrollments. The server's
// half is package devices; docs/attestation.md says what is proved.
package tpm

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// TPM is an open TPM. Its methods may be called from many goroutines; a
// ceremony has the TPM for itself until it ends.
type TPM struct {
	turn chan struct{} // has room for one conversation with the chip
	ch   *channel      // of the conversation
	kept *madeKey      // of the conversation: see keep
}

func newTPM(l line, options ...Option) *TPM {
	t := &TPM{turn: make(chan struct{}, 1), ch: &channel{line: l}}
	for _, set := range options {
		set(t)
	}
	return t
}

// Option of Open.
type Option func(*TPM)

// WhenSlow has slow called where the chip keeps somebody waiting: once in a
// conversation, which is a call of Open or of a method, when a command has had
// no answer for two seconds. It is called in a goroutine of its own, while the
// conversation goes on.
func WhenSlow(slow func()) Option { return func(t *TPM) { t.ch.slow = slow } }

// hold takes the TPM for a conversation that ends with ctx at the latest; the
// function that it returns gives it back. Whoever comes too late is told so:
// a ceremony also waits for the server.
func (t *TPM) hold(ctx context.Context) (release func(), err error) {
	waiting, cancel := context.WithTimeout(ctx, turnTimeout)
	defer cancel()
	select {
	case t.turn <- struct{}{}:
	case <-waiting.Done():
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, errBusy
	}
	t.ch.begin(ctx)
	return func() { <-t.turn }, nil
}

// Close ends the connection, once the conversation that goes on has ended, and
// leaves nothing of ours in the TPM.
func (t *TPM) Close() error {
	t.turn <- struct{}{}
	defer func() { <-t.turn }()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	t.ch.begin(ended)
	t.forget()
	return t.ch.line.Close()
}

// Info gives the chip's manufacturer (its vendor ID, such as "IFX" or "IBM")
// and its firmware version.
func (t *TPM) Info(ctx context.Context) (manufacturer, firmware string, err error) {
	release, err := t.hold(ctx)
	if err != nil {
		return "", "", err
	}
	defer release()
	manufacturer, firmware, err = t.infoLocked()
	return manufacturer, firmware, fault(ctx, err)
}

func (t *TPM) infoLocked() (manufacturer, firmware string, err error) {
	rsp, err := tpm2.GetCapability{
		Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTManufacturer), PropertyCount: 8,
	}.Execute(t.ch)
	if err != nil {
		return "", "", failedTo("read its own properties", err)
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return "", "", failedTo("read its own properties", err)
	}
	for _, p := range list.TPMProperty {
		switch p.Property {
		case tpm2.TPMPTManufacturer:
			manufacturer = printable(p.Value)
		case tpm2.TPMPTFirmwareVersion1:
			firmware = fmt.Sprintf("%d.%d", p.Value>>16, p.Value&0xffff)
		}
	}
	return manufacturer, firmware, nil
}

// printable reads the four characters of a vendor ID (TCG TPM Vendor ID
// Registry), which some chips pad with zeros and others with spaces.
func printable(id uint32) string {
	text := binary.BigEndian.AppendUint32(nil, id)
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(text)))
}

// flush frees a slot, also when the conversation was cut short; then nobody
// waits long for it. A failure shows at the next command, if it matters.
func (t *TPM) flush(h tpm2.TPMHandle) {
	ctx := t.ch.ctx
	defer func() { t.ch.ctx = ctx }()
	t.ch.ctx = context.WithoutCancel(ctx)
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		t.ch.ctx, cancel = context.WithTimeout(t.ch.ctx, flushTimeout)
		defer cancel()
	}
	tpm2.FlushContext{FlushHandle: h}.Execute(t.ch) //nolint:errcheck // see above
}
