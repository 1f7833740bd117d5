package authd

import (
	"encoding/json"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// findResponse is GET /v1/webapi/find: what anybody may know.
type findResponse struct {
	ServerVersion string   `json:"server_version"`
	ClusterName   string   `json:"cluster_name"`
	Auth          findAuth `json:"auth"`
}

type findAuth struct {
	SecondFactor string          `json:"second_factor"`
	DeviceTrust  findDeviceTrust `json:"device_trust"`
}

type findDeviceTrust struct {
	Mode       string `json:"mode"`
	AutoEnroll bool   `json:"auto_enroll"`
}

func (s *Server) find(w http.ResponseWriter, r *http.Request) {
	info, err := s.clusterInfo(r.Context())
	if err != nil {
		s.log.Error("find", "error", err)
		http.Error(w, "the store does not answer", http.StatusServiceUnavailable)
		return
	}
	s.writeJSON(w, findResponse{
		ServerVersion: s.cfg.Version,
		ClusterName:   info.GetName(),
		Auth: findAuth{
			SecondFactor: "off",
			DeviceTrust:  findDeviceTrust{Mode: info.GetDeviceTrustMode(), AutoEnroll: info.GetAutoEnroll()},
		},
	})
}

func (s *Server) writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.log.Debug("an answer was not taken", "error", err)
	}
}

// invitePage is where an invite's URL leads. The token is in the URL's
// fragment, which browsers do not send.
const invitePage = `<!doctype html>
<meta charset="utf-8">
<title>Invitation</title>
<h1>You are invited</h1>
<p>Set your password with the command that came with this link:
<pre>dtsh passwd --proxy=… --ca-pin=… --invite=…</pre>
<p>The invite is the part of this page's address after the <code>#</code>.
Who sent it knows the rest; take it from nowhere else.
`

func (s *Server) invite(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	if _, err := w.Write([]byte(invitePage)); err != nil {
		s.log.Debug("an answer was not taken", "error", err)
	}
}

// diagHandler answers on the diagnosis port: loopback, without TLS.
func (s *Server) diagHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		s.writeJSON(w, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := s.db.Ping(r.Context()); err != nil {
			s.log.Error("not ready", "error", err)
			http.Error(w, `{"status":"the store does not answer"}`, http.StatusServiceUnavailable)
			return
		}
		s.writeJSON(w, map[string]string{"status": "ok"})
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	return mux
}

// metrics are counted per procedure and outcome, names that only we choose.
type metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	nodes    prometheus.Gauge
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dtauthd_calls_total", Help: "API calls by procedure and result code.",
		}, []string{"procedure", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "dtauthd_call_seconds", Help: "Duration of API calls; of streams, until they end.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}, []string{"procedure"}),
		nodes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "dtauthd_following_nodes", Help: "Nodes that follow the change feed of this process.",
		}),
	}
	m.registry.MustRegister(m.calls, m.seconds, m.nodes)
	return m
}

// watch adds what is read off the feed when somebody asks.
func (m *metrics) watch(f *changeFeed) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dtauthd_state_sequence", Help: "Number of the state that this process tells nodes; 0: none.",
	}, func() float64 { return float64(f.sequence()) }))
}

func (m *metrics) observe(procedure string, err error, took time.Duration) {
	code := "ok"
	if err != nil {
		code = connect.CodeOf(err).String()
	}
	m.calls.WithLabelValues(procedure, code).Inc()
	m.seconds.WithLabelValues(procedure).Observe(took.Seconds())
}
