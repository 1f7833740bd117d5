package node

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"devicetrust/api"
)

// diagOff is the address of no diagnosis; so is "".
const diagOff = "off"

// listenDiag opens the port of /healthz, /readyz and /metrics; nil where it is
// off.
func listenDiag(ctx context.Context, address string) (net.Listener, error) {
	if address == "" || address == diagOff {
		return nil, nil
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, api.Refuse(connect.CodeInvalidArgument, "--diag-listen: %.128q is not ADDRESS:PORT, nor off", address)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, api.Refuse(connect.CodeUnavailable, "cannot listen on %s: %v", address, root(err)).
			WithHint("Choose another address with --diag-listen.")
	}
	return l, nil
}

// diagHandler answers without TLS and without asking who it is: it tells
// numbers, and nothing of anybody. ready tells why the node is not, or nil.
func diagHandler(registry *prometheus.Registry, ready func() error) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answerStatus(w, nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answerStatus(w, ready()) })
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	return mux
}

func answerStatus(w http.ResponseWriter, problem error) {
	status, code := "ok", http.StatusOK
	if problem != nil {
		status, code = problem.Error(), http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]string{"status": status}) // who asked is gone where it fails
}

// diagServer bounds what whoever reaches the port may use: it shares its files
// with the sessions.
func diagServer(h http.Handler, log *slog.Logger) *http.Server {
	var open atomic.Int64
	return &http.Server{
		Handler: h, ReadTimeout: diagTimeout, WriteTimeout: diagTimeout, IdleTimeout: diagIdle, MaxHeaderBytes: 8 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnState: func(c net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				if open.Add(1) > maxDiagConnections {
					c.Close() // which the server finds out, and says StateClosed
				}
			case http.StateClosed, http.StateHijacked:
				open.Add(-1)
			default:
			}
		},
	}
}

// diagnose answers on l, where there is one, until it is closed or ctx ends;
// the node is not ready any more when stop has.
func (n *node) diagnose(ctx, stop context.Context, l net.Listener) {
	if l == nil {
		return
	}
	n.config.Log.Info("serving", "port", "diag", "addr", l.Addr().String())
	srv := diagServer(diagHandler(n.server.metrics.registry, func() error { return n.ready(stop) }), n.config.Log)
	// Also where the port is a successor's: who keeps a connection is to ask
	// that from then on. Nobody is in the middle of what matters.
	defer srv.Close() //nolint:errcheck // what was open is gone
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		n.config.Log.Error("diagnosis has ended", "error", err)
	}
}

// ready tells why the node would let nobody in who may be let in, or nil.
func (n *node) ready(stop context.Context) error {
	st := n.states.get()
	switch {
	case stop.Err() != nil:
		return errors.New(shuttingDown)
	case !n.serving.Load():
		return errors.New("the node does not serve yet")
	case st.removed:
		return errors.New(removedReason)
	case len(st.authorities) == 0:
		return errors.New(noNewsReason)
	default:
		return nil
	}
}
