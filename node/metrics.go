package node

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"devicetrust/identity"
)

// metrics are counted by words that only we choose, never a client.
type metrics struct {
	registry   *prometheus.Registry
	sessions   *prometheus.GaugeVec
	started    *prometheus.CounterVec
	rejections *prometheus.CounterVec
	handshake  prometheus.Histogram
	decision   prometheus.Histogram
	in, out    prometheus.Counter
	unrecorded prometheus.Counter
}

func newMetrics() *metrics {
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dtnoded_bytes_total", Help: "Bytes of all connections, as on the network.",
	}, []string{"direction"})
	m := &metrics{
		registry: prometheus.NewRegistry(),
		sessions: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "dtnoded_sessions", Help: "Sessions that run, by kind.",
		}, []string{"kind"}),
		started: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dtnoded_sessions_started_total", Help: "Sessions whose process was started, by kind.",
		}, []string{"kind"}),
		rejections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dtnoded_rejections_total", Help: "Attempts to enter or to have a session that were refused, by what decided.",
		}, []string{"cause"}),
		handshake: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "dtnoded_handshake_seconds", Help: "From a connection's arrival until somebody is admitted on it.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}),
		decision: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "dtnoded_decision_seconds", Help: "To check a certificate, decide about it and find the account.",
			Buckets: prometheus.ExponentialBuckets(0.00001, 4, 10),
		}),
		unrecorded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "dtnoded_unrecorded_total", Help: "Records that could not be written of what happened all the same (audit: best_effort).",
		}),
		in: bytes.WithLabelValues("in"), out: bytes.WithLabelValues("out"),
	}
	m.registry.MustRegister(bytes, m.sessions, m.started, m.rejections, m.handshake, m.decision, m.unrecorded,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// watch adds what is read off s when somebody asks.
func (m *metrics) watch(s *server) {
	gauge := func(name, help string, labels prometheus.Labels, read func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, read))
	}
	const connections, help = "dtnoded_connections", "Connections, by whether somebody was admitted on them."
	gauge(connections, help, prometheus.Labels{"state": "admitted"}, func() float64 {
		admitted, _, _ := s.guard.count()
		return float64(admitted)
	})
	gauge(connections, help, prometheus.Labels{"state": "unauthenticated"}, func() float64 {
		_, strangers, _ := s.guard.count()
		return float64(strangers)
	})
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "dtnoded_dropped_connections_total", Help: "Connections that there was no room for (max_startups and others).",
	}, func() float64 {
		_, _, dropped := s.guard.count()
		return float64(dropped)
	}))
	gauge("dtnoded_spool_bytes", "Audit records that the control plane does not have yet.", nil, func() float64 {
		return float64(s.spool.unsent())
	})
	gauge("dtnoded_policy_age_seconds", "Since the control plane last said that the policy is current; +Inf where it never has.", nil, func() float64 {
		age := s.states.age(s.now())
		if age == notHeard {
			return math.Inf(1)
		}
		return age.Seconds()
	})
}

// begin counts a session whose process runs; what it returns is called at its
// end.
func (m *metrics) begin(k taskKind) (end func()) {
	m.started.WithLabelValues(k.String()).Inc()
	running := m.sessions.WithLabelValues(k.String())
	running.Inc()
	return running.Dec
}

// rejectCause is what decided that somebody is refused: one of policy's, one for a
// certificate, or one that the node finds itself. Nothing in it is a client's.
type rejectCause string

const (
	causeOther       rejectCause = "other"
	causeLogin       rejectCause = "malformed-login"
	causeRemoved     rejectCause = "node-removed"
	causeNoNews      rejectCause = "no-authorities"
	causeExpired     rejectCause = "certificate-expired"
	causeAccount     rejectCause = "account"
	causeShutdown    rejectCause = "shutting-down"
	causeMaxSessions rejectCause = "max-sessions"
)

// causeOf is what a certificate was refused for.
func causeOf(r identity.Reason) rejectCause {
	if r == "" {
		return causeOther
	}
	return "certificate-" + rejectCause(r)
}

// refused counts a refusal; one that nobody has given a cause is of another.
func (m *metrics) refused(no *refusal) {
	c := no.cause
	if c == "" {
		c = causeOther
	}
	m.rejections.WithLabelValues(string(c)).Inc()
}
