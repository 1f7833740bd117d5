package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"devicetrust/api"
)

// command is TPM2_GetRandom of 8 bytes.
var command = []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0, 8}

func response(code uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, 10}, code)
}

func TestATPMThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		go theirs.Read(make([]byte, 64)) // and never answers
		c := &channel{line: &socket{ours}, ctx: t.Context()}
		start := time.Now()
		_, err := c.Send(command)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		if waited := time.Since(start); waited != commandTimeout {
			t.Errorf("gave up after %v, want %v", waited, commandTimeout)
		}
		// A late answer must not be taken for that to the next command.
		if _, again := c.Send(command); !errors.Is(again, context.DeadlineExceeded) || time.Since(start) != commandTimeout {
			t.Errorf("the line was used again: %v", again)
		}
	})
}

func TestACancelledConversationEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go theirs.Read(make([]byte, 64))
		start := time.Now()
		if _, err := (&channel{line: &socket{ours}, ctx: ctx}).Send(command); err == nil {
			t.Error("it gave an answer")
		}
		if waited := time.Since(start); waited != time.Second {
			t.Errorf("ended after %v", waited)
		}
	})
}

func TestAConversationCanStillBeCancelledAfterAFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() {
			theirs.Read(make([]byte, 64))
			theirs.Write(response(0))
			theirs.Read(make([]byte, 64))
		}()
		chip := newTPM(&socket{ours})
		defer holdFor(t, chip, ctx)()
		start := time.Now()
		chip.flush(firstTransient)
		if chip.ch.broken != nil {
			t.Fatal(chip.ch.broken)
		}
		if _, err := chip.ch.Send(command); err == nil {
			t.Error("it gave an answer")
		}
		if waited := time.Since(start); waited != time.Second {
			t.Errorf("ended after %v", waited)
		}
	})
}

func TestASlotIsFreedAlsoAfterCtrlC(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() {
		theirs.Read(make([]byte, 64))
		theirs.Write(response(0))
	}()
	ctx, cancel := context.WithCancel(t.Context())
	chip := newTPM(&socket{ours})
	defer holdFor(t, chip, ctx)()
	cancel()
	if chip.flush(firstTransient); chip.ch.broken != nil {
		t.Error(chip.ch.broken)
	}
}

func TestACommandThatTheTPMWantsAgainIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		go func() {
			for _, code := range []uint32{0x922, 0x908, 0x90a, 0} { // RETRY, YIELDED, TESTING
				theirs.Read(make([]byte, 64))
				theirs.Write(response(code))
			}
		}()
		got, err := (&channel{line: &socket{ours}, ctx: t.Context()}).Send(command)
		if err != nil || string(got) != string(response(0)) {
			t.Errorf("got %x, %v", got, err)
		}
	})
}

func TestATPMThatAlwaysWantsItAgainIsNotAskedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		go func() {
			for {
				if _, err := theirs.Read(make([]byte, 64)); err != nil {
					return
				}
				theirs.Write(response(0x922))
			}
		}()
		got, err := (&channel{line: &socket{ours}, ctx: t.Context()}).Send(command)
		if err != nil || string(got) != string(response(0x922)) {
			t.Errorf("got %x, %v", got, err)
		}
		ours.Close()
	})
}

// Root may open everything, so the test cannot ask the kernel.
func TestWithoutPermissionTheHintNamesTheGroupAndTheRules(t *testing.T) {
	err := openRefusal(DefaultAddress, &fs.PathError{Op: "open", Path: DefaultAddress, Err: os.ErrPermission})
	var r *api.Refusal
	if !errors.As(err, &r) || !errors.Is(err, fs.ErrPermission) {
		t.Fatalf("got %v", err)
	}
	if want := `Failed to open the TPM device "/dev/tpmrm0": permission denied`; r.Message != want {
		t.Errorf("got %q, want %q", r.Message, want)
	}
	for _, word := range []string{"tss", "udev"} {
		if !strings.Contains(r.Hint, word) {
			t.Errorf("%q is not in %q", word, r.Hint)
		}
	}
	if strings.Contains(r.Hint, "\n") {
		t.Error("the hint has more than one line")
	}
}
