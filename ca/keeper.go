package ca

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/crypto/chacha20poly1305"
)

// Keeper holds the key that is kept outside the database: with it the
// authorities' private keys are sealed and the audit chain is keyed. It does
// not print.
type Keeper struct {
	path string
	// One key for each use, so that none can stand for another.
	sealing, auditing [32]byte
}

// keyFileForm is the whole of a key file: a version line and 32 bytes in hex.
var keyFileForm = regexp.MustCompile(`\Adt-key-v1\n([0-9a-f]{64})\n\z`)

// LoadKeeper reads the key file at path, and makes one where there is none.
// A file that others than its owner can read, or that is not whole, is an
// error: a new key would not open what the old one sealed.
func LoadKeeper(path string) (*Keeper, error) {
	k, err := readKeeper(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := createKeyFile(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("ca: create the key file: %w", err)
	}
	return readKeeper(path) // ours, or that of whoever was quicker
}

func readKeeper(path string) (*Keeper, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("ca: key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("ca: key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("ca: key file %s is not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("ca: key file %s has mode %04o and others may use it: chmod 600 it, and think of who has read it", path, mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("ca: key file: %w", err)
	}
	m := keyFileForm.FindSubmatch(text)
	if m == nil {
		return nil, fmt.Errorf("ca: key file %s is not one of this version, or damaged: put back a copy of it", path)
	}
	key := make([]byte, 32)
	if _, err := hex.Decode(key, m[1]); err != nil {
		return nil, fmt.Errorf("ca: key file %s is damaged", path)
	}
	return newKeeper(path, key)
}

// createKeyFile puts a whole file at path or none: it is written beside it
// and linked, which fails where somebody else's is there already.
func createKeyFile(path string) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".key-*") // O_EXCL, 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	var key [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		return errors.Join(err, f.Close())
	}
	_, err = fmt.Fprintf(f, "dt-key-v1\n%x\n", key)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a new name in dir survive a loss of power.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func newKeeper(path string, key []byte) (*Keeper, error) {
	k := &Keeper{path: path}
	for use, into := range map[string]*[32]byte{"dt/v1 seal": &k.sealing, "dt/v1 audit chain": &k.auditing} {
		derived, err := hkdf.Key(sha256.New, key, nil, use, len(into))
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		copy(into[:], derived)
	}
	return k, nil
}

// AuditKey is the key of the audit chain.
func (k *Keeper) AuditKey() [32]byte { return k.auditing }

// sealVersion is the first byte of what Seal gives.
const sealVersion = 1

// Seal encrypts plaintext with XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03):
// a version byte, a random nonce of 24 bytes, the ciphertext. Only Open with
// the same purpose gives it back.
func (k *Keeper) Seal(purpose string, plaintext []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(k.sealing[:])
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	out := make([]byte, 1+aead.NonceSize(), 1+aead.NonceSize()+len(plaintext)+aead.Overhead())
	out[0] = sealVersion
	if _, err := rand.Read(out[1:]); err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	return aead.Seal(out, out[1:], plaintext, []byte(purpose)), nil
}

var errSealed = errors.New("ca: what was sealed cannot be opened with this key and for this purpose")

// Open is the inverse of Seal. Another key, another purpose or a changed byte
// is an error.
func (k *Keeper) Open(purpose string, sealed []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(k.sealing[:])
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	if len(sealed) < 1+aead.NonceSize() || sealed[0] != sealVersion {
		return nil, errSealed
	}
	nonce, text := sealed[1:1+aead.NonceSize()], sealed[1+aead.NonceSize():]
	plaintext, err := aead.Open(nil, nonce, text, []byte(purpose))
	if err != nil {
		return nil, errSealed
	}
	return plaintext, nil
}

// What is printed of a Keeper, by any verb and any log handler.
const keeperShown = "ca.Keeper(secret)"

func (Keeper) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, keeperShown) }

func (Keeper) LogValue() slog.Value { return slog.StringValue(keeperShown) }

func (Keeper) MarshalText() ([]byte, error) { return []byte(keeperShown), nil }

var (
	_ fmt.Formatter  = Keeper{}
	_ slog.LogValuer = Keeper{}
)
