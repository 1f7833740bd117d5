// Package tpm is a machine's half of the device ceremonies: the conversation
// with its TPM 2.0, and the file that remembers its enrollments. The server's
// half is package devices; docs/attestation.md says what is proved.
package tpm

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"

	"github.com/google/go-tpm/tpm2"
)

// TPM is an open TPM. Its methods may be called from many goroutines; a
// ceremony has the TPM for itself until it ends.
type TPM struct {
	mu sync.Mutex // held over a whole conversation with the chip
	ch *channel   // guarded by mu
}

// hold takes the TPM for a conversation that ends with ctx at the latest; the
// function that it returns gives it back.
func (t *TPM) hold(ctx context.Context) (release func()) {
	t.mu.Lock()
	t.ch.ctx = ctx
	return t.mu.Unlock
}

// Close ends the connection. Ceremonies have flushed what they loaded.
func (t *TPM) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ch.line.Close()
}

// Info gives the chip's manufacturer (its vendor ID, such as "IFX" or "IBM")
// and its firmware version.
func (t *TPM) Info(ctx context.Context) (manufacturer, firmware string, err error) {
	defer t.hold(ctx)()
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

// flush frees a slot, also when the conversation was cut short. A failure
// shows at the next command, if it matters.
func (t *TPM) flush(h tpm2.TPMHandle) {
	ctx := t.ch.ctx
	defer func() { t.ch.ctx = ctx }()
	t.ch.ctx = context.WithoutCancel(ctx)
	tpm2.FlushContext{FlushHandle: h}.Execute(t.ch) //nolint:errcheck // see above
}
