package tpm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-tpm/tpm2"

	"devicetrust/devices/tpm/tpmtest"
	"devicetrust/identity"
)

// recorded is a line that writes down which commands are sent.
type recorded struct {
	line
	sent     []tpm2.TPMCC
	commands [][]byte
}

func (r *recorded) exchange(ctx context.Context, command []byte) ([]byte, error) {
	r.sent = append(r.sent, tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])))
	r.commands = append(r.commands, bytes.Clone(command))
	return r.line.exchange(ctx, command)
}

// take gives what was sent since it was last asked.
func (r *recorded) take() []tpm2.TPMCC {
	defer func() { r.sent, r.commands = nil, nil }()
	return r.sent
}

func recording(t testing.TB, address string) (*TPM, *recorded) {
	t.Helper()
	chip, err := Open(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { chip.Close() })
	r := &recorded{line: chip.ch.line}
	chip.ch.line = r
	return chip, r
}

// newKey makes a login's key and leaves nothing loaded.
func newKey(t testing.TB, chip *TPM) LoginKey {
	t.Helper()
	release, err := chip.hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	made, err := chip.makeLoginKey(newUnique())
	if err != nil {
		t.Fatal(err)
	}
	chip.flush(made.handle.Handle)
	return made.key
}

var digest = sha256.Sum256([]byte("what is to be signed"))

// signs fails unless the TPM signs with k; it gives the commands that it took.
func signs(t testing.TB, chip *TPM, r *recorded, k LoginKey) []tpm2.TPMCC {
	t.Helper()
	r.take()
	sig, err := chip.Sign(t.Context(), k, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	public, err := k.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.VerifyASN1(public, digest[:], sig) {
		t.Fatal("the signature does not verify")
	}
	return r.take()
}

var (
	oneSignature = []tpm2.TPMCC{tpm2.TPMCCSign}
	fromAnew     = []tpm2.TPMCC{tpm2.TPMCCCreatePrimary, tpm2.TPMCCSign}
	inItsPlace   = []tpm2.TPMCC{tpm2.TPMCCFlushContext, tpm2.TPMCCCreatePrimary, tpm2.TPMCCSign}
	againAnew    = []tpm2.TPMCC{tpm2.TPMCCSign, tpm2.TPMCCFlushContext, tpm2.TPMCCCreatePrimary, tpm2.TPMCCSign}
)

func wantSent(t *testing.T, got, want []tpm2.TPMCC) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}
}

func TestASignatureIsOneCommand(t *testing.T) {
	soft := tpmtest.Start(t)
	chip, r := recording(t, soft.Address)
	key, other := newKey(t, chip), newKey(t, chip)
	wantSent(t, signs(t, chip, r, key), fromAnew)
	wantSent(t, signs(t, chip, r, key), oneSignature)
	wantSent(t, signs(t, chip, r, other), inItsPlace)
	wantSent(t, signs(t, chip, r, other), oneSignature)
	wantSent(t, signs(t, chip, r, key), inItsPlace)
	if err := chip.Close(); err != nil {
		t.Error(err)
	}
	if n := soft.Loaded(t); n != 0 {
		t.Errorf("%d keys were left in the TPM", n)
	}
}

// What was loaded may be gone, or be something else, without our knowing.
func TestAKeyThatIsGoneFromTheTPMIsMadeAgain(t *testing.T) {
	for name, take := range map[string]func(t *testing.T, soft *tpmtest.TPM, chip *TPM){
		"flushed by another program": func(_ *testing.T, _ *tpmtest.TPM, chip *TPM) { chip.flush(chip.kept.handle.Handle) },
		"flushed by TPM2_Clear": func(t *testing.T, _ *tpmtest.TPM, chip *TPM) {
			if _, err := (tpm2.Clear{AuthHandle: tpm2.TPMRHPlatform}).Execute(chip.ch); err != nil {
				t.Fatal(err)
			}
		},
		"lost with a reset": func(t *testing.T, soft *tpmtest.TPM, chip *TPM) { reset(t, soft, chip) },
		"in the place of another key that signs": func(t *testing.T, _ *tpmtest.TPM, chip *TPM) {
			another(t, chip, loginKeyTemplate(newUnique()))
		},
		"in the place of an attestation key": func(t *testing.T, _ *tpmtest.TPM, chip *TPM) {
			another(t, chip, akTemplate(newUnique()))
		},
		"in the place of a key that encrypts": func(t *testing.T, _ *tpmtest.TPM, chip *TPM) {
			another(t, chip, tpm2.ECCSRKTemplate)
		},
	} {
		t.Run(name, func(t *testing.T) {
			soft := tpmtest.Start(t)
			chip, r := recording(t, soft.Address)
			key := newKey(t, chip)
			signs(t, chip, r, key)
			release := holdFor(t, chip, t.Context())
			take(t, soft, chip)
			release()
			wantSent(t, signs(t, chip, r, key), againAnew)
			wantSent(t, signs(t, chip, r, key), oneSignature)
		})
	}
}

// another puts another key where the one that is kept was.
func another(t *testing.T, chip *TPM, template tpm2.TPMTPublic) {
	t.Helper()
	chip.flush(chip.kept.handle.Handle)
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(template)}.Execute(chip.ch)
	if err != nil {
		t.Fatal(err)
	}
	if rsp.ObjectHandle != chip.kept.handle.Handle {
		t.Fatalf("handle %#x, the test wants %#x", rsp.ObjectHandle, chip.kept.handle.Handle)
	}
}

// reset turns the TPM off and on while the connection stays, as a machine does
// that sleeps deeply.
func reset(t *testing.T, soft *tpmtest.TPM, chip *TPM) {
	t.Helper()
	soft.Reset(t)
	if _, err := (tpm2.Startup{StartupType: tpm2.TPMSUClear}).Execute(chip.ch); err != nil {
		t.Fatal(err)
	}
}

func TestATPMThatRefusesToSignIsAskedTwiceAtMost(t *testing.T) {
	chip, r := recording(t, tpmtest.Start(t).Address)
	key := newKey(t, chip)
	signs(t, chip, r, key)
	r.line = &saysNo{r.line}
	_, err := chip.Sign(t.Context(), key, digest[:])
	isForAPerson(t, err, "the TPM cannot sign with the login's key: ", "Restart")
	wantSent(t, r.take(), againAnew)
	r.line = r.line.(*saysNo).line
	wantSent(t, signs(t, chip, r, key), oneSignature)
}

// saysNo answers every TPM2_Sign with TPM_RC_FAILURE.
type saysNo struct{ line }

func (l *saysNo) exchange(ctx context.Context, command []byte) ([]byte, error) {
	if tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) == tpm2.TPMCCSign {
		return response(0x101), nil
	}
	return l.line.exchange(ctx, command)
}

func TestAKeyOfAnotherTPMIsToldWithARemedy(t *testing.T) {
	chip, r := recording(t, tpmtest.Start(t).Address)
	key := newKey(t, chip)
	thief, _ := recording(t, tpmtest.Start(t).Address)
	_, err := thief.Sign(t.Context(), key, digest[:])
	isForAPerson(t, err, "the login's key is of another TPM", "dtsh login")
	if !errors.Is(err, ErrForeignKey) {
		t.Errorf("%v is not ErrForeignKey", err)
	}
	signs(t, chip, r, key)
}

func TestADamagedKeyIsToldWithARemedy(t *testing.T) {
	chip, r := recording(t, tpmtest.Start(t).Address)
	good := newKey(t, chip)
	r.take()
	for name, k := range map[string]LoginKey{
		"nothing":            {},
		"no public half":     {Unique: good.Unique},
		"no unique":          {Public: good.Public},
		"a long unique":      {Unique: make([]byte, 1<<17), Public: good.Public},
		"half a public":      {Unique: good.Unique, Public: good.Public[:40]},
		"more than a key":    {Unique: good.Unique, Public: append(bytes.Clone(good.Public), 0)},
		"a long public":      {Unique: good.Unique, Public: make([]byte, 1<<20)},
		"off the curve":      {Unique: good.Unique, Public: flipped(good.Public, len(good.Public)-1)},
		"an endorsement key": {Unique: good.Unique, Public: tpm2.Marshal(tpm2.RSAEKTemplate)},
		"on another curve":   {Unique: good.Unique, Public: tpm2.Marshal(p384EK())},
	} {
		_, err := chip.Sign(t.Context(), k, digest[:])
		if err == nil {
			t.Errorf("%s: it signed", name)
			continue
		}
		isForAPerson(t, err, "what is kept of the login's key is damaged", "dtsh login")
	}
	if sent := r.take(); len(sent) != 0 {
		t.Errorf("the TPM was asked for %v", sent)
	}
	if _, err := chip.Sign(t.Context(), good, digest[:31]); err == nil {
		t.Error("31 bytes were signed")
	}
	// What is damaged in a way that cannot be seen is of no TPM's.
	wrong := LoginKey{Unique: flipped(good.Unique, 0), Public: good.Public}
	if _, err := chip.Sign(t.Context(), wrong, digest[:]); !errors.Is(err, ErrForeignKey) {
		t.Errorf("got %v", err)
	}
}

func flipped(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 1
	return b
}

// silentFrom is a line on which nothing is answered from the first command of
// that kind on.
type silentFrom struct {
	line
	command tpm2.TPMCC
	asked   chan struct{} // closed when it is asked
}

func (l *silentFrom) exchange(ctx context.Context, command []byte) ([]byte, error) {
	if tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) == l.command {
		close(l.asked)
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return l.line.exchange(ctx, command)
}

func TestCtrlCEndsASignatureAndTheWaitForOneAtOnce(t *testing.T) {
	chip, r := recording(t, tpmtest.Start(t).Address)
	key := newKey(t, chip)
	silent := &silentFrom{r.line, tpm2.TPMCCSign, make(chan struct{})}
	r.line = silent
	errs := make(chan error, 2)
	first, cancelFirst := context.WithCancel(t.Context())
	second, cancelSecond := context.WithCancel(t.Context())
	defer cancelFirst()
	start := time.Now()
	go func() {
		_, err := chip.Sign(first, key, digest[:])
		errs <- err
	}()
	<-silent.asked
	go func() {
		_, err := chip.Sign(second, key, digest[:])
		errs <- err
	}()
	for _, cancel := range []func(){cancelSecond, cancelFirst} {
		cancel()
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
	if waited := time.Since(start); waited > commandTimeout/2 {
		t.Errorf("it took %v", waited)
	}
	if _, err := chip.Sign(t.Context(), key, digest[:]); !errors.Is(err, context.Canceled) {
		t.Errorf("the answer that was not waited for may still come, and the next gives %v", err)
	}
}

func TestATPMThatIsSlowIsToldOfOncePerConversation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		wait := make(chan time.Duration)
		go func() {
			for d := range wait {
				theirs.Read(make([]byte, 64))
				time.Sleep(d)
				theirs.Write(response(0))
			}
		}()
		defer close(wait)
		told := 0
		chip := newTPM(&socket{ours}, WhenSlow(func() { told++ }))
		for _, conversation := range []struct {
			waits []time.Duration
			want  int
		}{
			{[]time.Duration{slowAfter - 1, slowAfter - 1}, 0},
			{[]time.Duration{1, slowAfter + 1, slowAfter + 1}, 1},
			{[]time.Duration{slowAfter - 1}, 0},
			{[]time.Duration{slowAfter + 1}, 1},
		} {
			told = 0
			release := holdFor(t, chip, t.Context())
			for _, d := range conversation.waits {
				wait <- d
				if _, err := chip.ch.Send(command); err != nil {
					t.Error(err)
				}
			}
			release()
			synctest.Wait()
			if told != conversation.want {
				t.Errorf("%v: told %d times, want %d", conversation.waits, told, conversation.want)
			}
		}
	})
}

func TestASignatureOfATPMThatHangsIsGivenUp(t *testing.T) {
	chip, _ := recording(t, tpmtest.Start(t).Address)
	key := newKey(t, chip)
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		go theirs.Read(make([]byte, 512)) // and never answers
		told := 0
		chip := newTPM(&socket{ours}, WhenSlow(func() { told++ }))
		chip.kept = &madeKey{handle: tpm2.NamedHandle{Handle: firstTransient}, key: key}
		start := time.Now()
		_, err := chip.Sign(t.Context(), key, digest[:])
		isForAPerson(t, err, "the TPM cannot sign with the login's key: it does not answer", "Another program")
		waited := time.Since(start)
		synctest.Wait() // told is written in a goroutine of its own
		if waited != commandTimeout || told != 1 {
			t.Errorf("given up after %v, want %v, and told %d times", waited, commandTimeout, told)
		}
	})
}

// BenchmarkSign is a signature by a key that is kept.
func BenchmarkSign(b *testing.B) {
	chip, r := recording(b, tpmtest.Start(b).Address)
	key := newKey(b, chip)
	for b.Loop() {
		signs(b, chip, r, key)
	}
}

func TestNobodyWaitsForEverForTheOneBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		chip := newTPM(&socket{ours})
		defer holdFor(t, chip, t.Context())() // as a login that waits for its server
		start := time.Now()
		_, err := chip.Sign(t.Context(), LoginKey{}, digest[:])
		isForAPerson(t, err, "the TPM is busy with another login", "ended")
		if waited := time.Since(start); waited != turnTimeout {
			t.Errorf("waited %v, want %v", waited, turnTimeout)
		}
	})
}

func TestClosingATPMThatHangsDoesNotTakeLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		go theirs.Read(make([]byte, 64))
		chip := newTPM(&socket{ours})
		chip.kept = &madeKey{handle: tpm2.NamedHandle{Handle: firstTransient}}
		start := time.Now()
		chip.Close()
		if waited := time.Since(start); waited != flushTimeout {
			t.Errorf("it took %v, want %v", waited, flushTimeout)
		}
	})
}

// FuzzLoginKey: what is read from a damaged file makes errors, and what is read
// at all can be encoded.
func FuzzLoginKey(f *testing.F) {
	p := elliptic.P256().Params()
	good := loginKeyTemplate(nil)
	good.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: p.Gx.Bytes()}, Y: tpm2.TPM2BECCParameter{Buffer: p.Gy.Bytes()},
	})
	f.Add(make([]byte, uniqueLen), tpm2.Marshal(good))
	f.Add(make([]byte, uniqueLen), tpm2.Marshal(loginKeyTemplate(nil)))
	f.Add(make([]byte, uniqueLen), tpm2.Marshal(tpm2.RSAEKTemplate))
	f.Add([]byte(nil), []byte(nil))
	f.Fuzz(func(t *testing.T, unique, public []byte) {
		key, err := LoginKey{Unique: unique, Public: public}.PublicKey()
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q has more than one line", err)
			}
			return
		}
		keys := &ceremonyKeys{ssh: &madeKey{public: key}, tls: &madeKey{public: key}}
		if err := keys.bind(&identity.LoginBinding{}); err != nil {
			t.Error(err)
		}
	})
}
