package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"devicetrust/store"
	"devicetrust/store/storetest"
)

// Whatever prints, logs or encodes a CA or a Keeper, with any verb and from
// inside any struct, gives away none of the secrets.
func TestSecretsDoNotPrint(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	secrets := w.secrets(t)
	type inside struct {
		CA     *CA
		Keeper *Keeper
		Value  Keeper
	}
	values := []any{w.ca, w.keeper, *w.keeper, inside{w.ca, w.keeper, *w.keeper}, []any{w.ca, *w.keeper}}
	if got := fmt.Sprintf("%+v %#v", w.ca, w.keeper); got != "ca.CA(example.com) ca.Keeper(secret)" {
		t.Errorf("printed: %s", got)
	}
	var out bytes.Buffer
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).Error("failed", "value", v)
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(text)
	}
	for name, secret := range secrets {
		for _, form := range []string{
			string(secret), hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)),
			base64.StdEncoding.EncodeToString(secret), base64.RawURLEncoding.EncodeToString(secret),
			strings.Trim(fmt.Sprintf("%d", secret), "[]"), strings.Trim(fmt.Sprintf("%#v", secret), "[]byte{}"),
		} {
			if strings.Contains(out.String(), form) {
				t.Errorf("%s was printed", name)
			}
		}
	}
}

func (w *world) secrets(t *testing.T) map[string][]byte {
	t.Helper()
	out := map[string][]byte{"sealing key": w.keeper.sealing[:], "audit key": w.keeper.auditing[:]}
	w.read(t, func(tx *store.Tx) error {
		rows, err := loadAuthorities(tx, w.keeper)
		for _, a := range rows {
			out[string(a.kind)] = privateBytes(t, a.signer)
		}
		return err
	})
	if len(out) != 5 {
		t.Fatalf("%d secrets", len(out))
	}
	return out
}

func privateBytes(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	switch k := key.(type) {
	case ed25519.PrivateKey:
		return k.Seed()
	case *ecdsa.PrivateKey:
		b, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	t.Fatalf("a key of type %T", key)
	return nil
}

// The database alone must not give the keys away.
func TestStoredKeysAreSealed(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.issue(t, nil)
		secrets := w.secrets(t)
		w.read(t, func(tx *store.Tx) error {
			rows, err := tx.Query(`SELECT public, sealed_key FROM authorities`)
			if err != nil {
				return err
			}
			defer rows.Close() //nolint:errcheck // rows.Err says what went wrong
			for rows.Next() {
				var public, sealed []byte
				if err := rows.Scan(&public, &sealed); err != nil {
					return err
				}
				for name, secret := range secrets {
					if bytes.Contains(public, secret) || bytes.Contains(sealed, secret) {
						t.Errorf("%s can be read in the database", name)
					}
				}
			}
			return rows.Err()
		})
	})
}
