package authd

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/devices"
)

func TestACompressedRequestIsNotUnpacked(t *testing.T) {
	r := start(t)
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	for range 64 {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for contentType, header := range map[string]string{
		"application/json": "Content-Encoding", "application/connect+json": "Connect-Content-Encoding", "application/grpc+json": "Grpc-Encoding",
	} {
		body := packed.Bytes()
		if header != "Content-Encoding" {
			body = framed(t, body)
			body[0] = 1 // compressed
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url()+dtv1connect.LoginServiceLoginProcedure, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		req.Header.Set(header, "gzip")
		res, err := r.https(nil).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if told := string(answer) + res.Trailer.Get("Grpc-Message") + res.Header.Get("Grpc-Message"); strings.Contains(told, "message size") {
			t.Errorf("%s: it was unpacked to the end: %s", contentType, told)
		}
	}
}

func TestAStrangerMayNotSendMuch(t *testing.T) {
	r := start(t)
	r.addUser("chief", "editor")
	key := newKeys(t)
	own, err := selfSigned(key.tls)
	if err != nil {
		t.Fatal(err)
	}
	key.certificate = own
	person := r.login("chief")
	long := []byte(`{"kind":"role","name":"access","pad":"` + strings.Repeat("x", maxStrangersBody) + `"}`)
	tooLong := []byte(`{"kind":"role","name":"access","pad":"` + strings.Repeat("x", devices.MaxMessage) + `"}`)
	get := r.url() + dtv1connect.ResourceServiceGetResourceProcedure
	for name, c := range map[string]*http.Client{"nobody": r.https(nil), "a certificate of one's own": r.https(key)} {
		if status, answer := post(t, c, get, "application/json", long); status != http.StatusTooManyRequests && status != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: %d %s", name, status, answer)
		}
	}
	if status, answer := post(t, r.https(person), get, "application/json", long); status != http.StatusOK {
		t.Errorf("a person: %d %s", status, answer)
	}
	if status, answer := post(t, r.https(person), get, "application/json", tooLong); status != http.StatusTooManyRequests {
		t.Errorf("a person with more than any message has: %d %s", status, answer)
	}
}

func selfSigned(key *ecdsa.PrivateKey) (*tls.Certificate, error) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "chief"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// answering is a connection that keeps the deadlines it is given.
type answering struct {
	*httptest.ResponseRecorder
	read, write time.Time
}

func (a *answering) SetReadDeadline(t time.Time) error  { a.read = t; return nil }
func (a *answering) SetWriteDeadline(t time.Time) error { a.write = t; return nil }

func TestEveryCallHasAnEnd(t *testing.T) {
	now := time.Now()
	s := &Server{now: func() time.Time { return now }, log: slog.New(slog.DiscardHandler)}
	for path, limit := range map[string]time.Duration{
		dtv1connect.LoginServiceLoginProcedure:               unaryTimeout,
		"/v1/webapi/find":                                    unaryTimeout,
		"/nothing":                                           unaryTimeout,
		dtv1connect.DeviceServiceEnrollDeviceProcedure:       ceremonyTimeout,
		dtv1connect.DeviceServiceAuthenticateDeviceProcedure: ceremonyTimeout,
		dtv1connect.NodeServiceFollowProcedure:               unaryTimeout,
	} {
		w := &answering{ResponseRecorder: httptest.NewRecorder()}
		s.withBounds(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if got := w.read.Sub(now); got != limit {
				t.Errorf("%s: %v to come, want %v", path, got, limit)
			}
			if got := w.write.Sub(now); got != limit+takeTimeout {
				t.Errorf("%s: %v to be fetched, want %v", path, got, limit+takeTimeout)
			}
			s.allowSend(r.Context(), time.Minute)
			if got := w.write.Sub(now); got != time.Minute || !w.read.IsZero() {
				t.Errorf("%s: the next message has %v, and its stream until %v", path, got, w.read)
			}
		})).ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, nil))
	}
}
