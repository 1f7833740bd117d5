package authd

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/devices"
)

type answerKey struct{}

// withBounds bounds a request before anybody reads it: how long it may take
// to come, how long its answer may take to be fetched, and how long it may be.
// A ceremony waits for the client's half on its stream, any other call has all
// of its request at once. Follow reads nothing after the start; it goes on
// for as long as each of its messages is fetched (allowSend).
func (s *Server) withBounds(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limit, length := unaryLimit(r.URL.Path), int64(maxBody)
		switch r.URL.Path {
		case dtv1connect.DeviceServiceEnrollDeviceProcedure, dtv1connect.DeviceServiceAuthenticateDeviceProcedure:
			limit, length = ceremonyTimeout, maxCeremonyBody
		case dtv1connect.DeviceServiceCreateDevicesProcedure:
			limit, length = bulkTimeout, maxBulkBody
		}
		answer := http.NewResponseController(w)
		r = r.WithContext(context.WithValue(r.Context(), answerKey{}, answer))
		now, toRead := s.now(), limit
		if r.ContentLength != 0 && s.isStranger(r) {
			length, toRead = strangersLength(r.URL.Path), strangersReadTimeout
			leave, ok := s.admitStranger(r, length)
			if !ok {
				s.tooMany(w, r)
				return
			}
			defer leave()
		}
		leave, ok := s.holdKRL(r)
		if !ok {
			s.tooMany(w, r)
			return
		}
		defer leave()
		if err := answer.SetReadDeadline(now.Add(toRead)); err != nil {
			s.log.Debug("no read deadline", "error", err)
		}
		if err := answer.SetWriteDeadline(now.Add(limit + takeTimeout)); err != nil {
			s.log.Debug("no write deadline", "error", err)
		}
		r.Body = http.MaxBytesReader(w, r.Body, length)
		next.ServeHTTP(w, r)
	})
}

// tooMany tells a caller that the share of where it comes from is taken.
func (s *Server) tooMany(w http.ResponseWriter, r *http.Request) {
	wire, _ := api.ToWire(api.Refuse(connect.CodeResourceExhausted, "too many callers from here at this moment").
		WithHint("Try again in a minute."))
	if err := connect.NewErrorWriter().Write(w, r, wire); err != nil {
		s.log.Debug("a refusal was not taken", "error", err)
	}
}

// unaryLimit is how long a call that is not a stream may take.
func unaryLimit(procedure string) time.Duration {
	if procedure == dtv1connect.AdminServiceVerifyAuditProcedure {
		return verifyTimeout
	}
	return unaryTimeout
}

func strangersLength(path string) int64 {
	if path == dtv1connect.NodeServiceJoinProcedure {
		return maxJoinBody
	}
	return maxStrangersBody
}

// admitStranger takes the share of a stranger's body until all of it has come,
// or leave is called.
func (s *Server) admitStranger(r *http.Request, length int64) (leave func(), ok bool) {
	p, _ := r.Context().Value(peerKey{}).(peer)
	from := placeOf(p.addr)
	if !s.strangers.take(from, length) {
		return nil, false
	}
	leave = sync.OnceFunc(func() { s.strangers.give(from, length) })
	r.Body = &sharedBody{ReadCloser: r.Body, leave: leave}
	return leave, true
}

// sharedBody gives its share back once there is nothing more to read.
type sharedBody struct {
	io.ReadCloser
	leave func()
}

func (b *sharedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.leave()
	}
	return n, err
}

// isStranger tells whether a caller has shown nothing of ours. It is asked
// before the call is read and decides only how much of it is.
func (s *Server) isStranger(r *http.Request) bool {
	p, _ := r.Context().Value(peerKey{}).(peer)
	if p.osUser != "" {
		return false
	}
	if p.certificate == nil {
		return true
	}
	_, err := s.ca.VerifyTLSClient(p.certificate)
	return err != nil
}

// allowSend gives the next message of a stream that has no end its time to be
// fetched; without another one, the stream is ended when that is over. The
// request was read, so the time for that ends nothing any more.
func (s *Server) allowSend(ctx context.Context, within time.Duration) {
	answer, ok := ctx.Value(answerKey{}).(*http.ResponseController)
	if !ok {
		return
	}
	if err := errors.Join(answer.SetReadDeadline(time.Time{}), answer.SetWriteDeadline(s.now().Add(within))); err != nil {
		s.log.Debug("no deadlines", "error", err)
	}
}

// maxBody is one message of the longest kind, in its frame.
const maxBody = devices.MaxMessage + frameHeader

// maxCeremonyBody is the two messages of a device.
const maxCeremonyBody = 2 * maxBody

// maxBulkBody is the documents with what frames them in messages.
const maxBulkBody = maxBulkBytes + maxBulkBytes/8

// frameHeader of a message in a stream.
const frameHeader = 5
