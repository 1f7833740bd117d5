package authd

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/audit/event"
	"devicetrust/ca"
	"devicetrust/feed"
	"devicetrust/resource"
	"devicetrust/store"
)

// nodeService answers nodes.
type nodeService struct{ s *Server }

var _ dtv1connect.NodeServiceHandler = nodeService{}

// Join spends the token first, on its own: a join that fails later does not
// bring it back.
func (h nodeService) Join(ctx context.Context, req *connect.Request[dtv1.JoinRequest]) (*connect.Response[dtv1.JoinResponse], error) {
	s, m := h.s, req.Msg
	token, err := s.spendJoinToken(ctx, m)
	if err != nil {
		return nil, err
	}
	id := uuid.NewString()
	res, err := s.joinWith(ctx, id, token, m)
	if err != nil {
		level := slog.LevelInfo
		if token.name == "" { // anybody can come without one
			level = slog.LevelDebug
		}
		s.log.Log(ctx, level, "a node was not let in", "addr", callerOf(ctx).remote(), "error", err)
		if token.name != "" {
			err = recordFailure(ctx, s, err, event.Event{
				Type: event.NodeJoin, User: "token:" + token.name, NodeName: m.GetNode().GetName(), RemoteAddr: callerOf(ctx).remote(),
			})
		}
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// spendJoinToken takes a token for good, with the record of that. The zero
// token is that there is none such.
func (s *Server) spendJoinToken(ctx context.Context, m *dtv1.JoinRequest) (token joinToken, err error) {
	// A look ahead, which decides nothing: writing is for those who hold one.
	var there bool
	err = s.db.Read(ctx, func(tx *store.Tx) (err error) {
		there, err = s.nodes.hasToken(tx, m.GetToken())
		return err
	})
	if err != nil || !there {
		return joinToken{}, err
	}
	err = s.db.Write(ctx, func(tx *store.Tx) (err error) {
		if token, err = s.nodes.takeToken(tx, m.GetToken()); err != nil || token.name == "" {
			return err
		}
		spent := event.Event{
			Type: event.JoinTokenSpent, User: "token:" + token.name, Kind: resource.KindToken, Name: token.name,
			NodeName: m.GetNode().GetName(), RemoteAddr: callerOf(ctx).remote(),
		}
		if bad := token.check(s.now()); bad != nil {
			spent.Message = bad.Error()
		} else {
			spent.Success = true
		}
		_, err = s.audit.Record(tx, spent)
		return err
	})
	return token, err
}

func (s *Server) joinWith(ctx context.Context, id string, token joinToken, m *dtv1.JoinRequest) (*dtv1.JoinResponse, error) {
	if err := token.check(s.now()); err != nil {
		return nil, err
	}
	return s.certifyNode(ctx, id, m.GetNode(), m.GetSshPublicKey(), m.GetTlsPublicKey(), token.labels, func(tx *store.Tx) error {
		_, err := s.audit.Record(tx, event.Event{
			Type: event.NodeJoin, Success: true, User: "token:" + token.name,
			NodeID: id, NodeName: m.GetNode().GetName(), RemoteAddr: callerOf(ctx).remote(),
		})
		return err
	})
}

// Renew certifies the same node again, with the labels that its token fixed.
func (h nodeService) Renew(ctx context.Context, req *connect.Request[dtv1.RenewRequest]) (*connect.Response[dtv1.JoinResponse], error) {
	s, m, id := h.s, req.Msg, callerOf(ctx).nodeID
	if err := s.takeReport(id, changeCost); err != nil {
		return nil, err
	}
	var fixed map[string]string
	err := s.db.Read(ctx, func(tx *store.Tx) (err error) {
		fixed, err = s.nodes.fixedLabels(tx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	stillThere := func(tx *store.Tx) error {
		return s.recordNodeChange(ctx, tx, id, m.GetNode(), fixed)
	}
	res, err := s.certifyNode(ctx, id, m.GetNode(), m.GetSshPublicKey(), m.GetTlsPublicKey(), fixed, stillThere)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// certifyNode stores the node and issues its certificates; before runs in the
// transaction that records the issuing.
func (s *Server) certifyNode(ctx context.Context, id string, info *dtv1.NodeInfo, sshKey, tlsKey []byte, fixed map[string]string, before func(tx *store.Tx) error) (*dtv1.JoinResponse, error) {
	if err := checkInfo(info); err != nil {
		return nil, err
	}
	key, err := ssh.ParsePublicKey(sshKey)
	if err != nil {
		return nil, api.Refuse(connect.CodeInvalidArgument, "the SSH public key cannot be read")
	}
	host, tlsCert, err := s.ca.IssueNode(ctx, ca.NodeRequest{
		NodeID: id, Name: info.GetName(), Hostname: info.GetHostname(),
		Principals: principalsOf(info.GetName(), info.GetHostname(), info.GetAddresses()),
		SSHKey:     key, TLSKey: tlsKey,
	}, func(tx *store.Tx) error {
		if err := before(tx); err != nil {
			return err
		}
		if err := s.nodes.checkFree(tx, id, info); err != nil {
			return err
		}
		if err := s.nodes.put(tx, id, info, fixed); err != nil {
			return err
		}
		if err := s.nodes.enforcedBy(tx, id, info); err != nil {
			return err
		}
		return s.nodes.certified(tx, id, info)
	})
	if err != nil {
		return nil, err
	}
	cluster, err := s.clusterInfo(ctx)
	if err != nil {
		return nil, err
	}
	return &dtv1.JoinResponse{
		NodeId: id, HostCertificate: host.Marshal(), TlsCertificate: tlsCert, Cluster: cluster, Labels: fixed,
	}, nil
}

func (h nodeService) Heartbeat(ctx context.Context, req *connect.Request[dtv1.HeartbeatRequest]) (*connect.Response[dtv1.HeartbeatResponse], error) {
	s, info, id := h.s, req.Msg.GetNode(), callerOf(ctx).nodeID
	if err := checkInfo(info); err != nil {
		return nil, err
	}
	report, err := reportOf(req.Msg, s.now())
	if err != nil {
		return nil, err
	}
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		fixed, err := s.nodes.fixedLabels(tx, id)
		if err != nil {
			return err
		}
		if same, err := s.nodes.heard(tx, id, info, fixed, report); same || err != nil {
			return err
		}
		if err := s.takeReport(id, changeCost); err != nil {
			return err
		}
		if err := s.nodes.checkFree(tx, id, info); err != nil {
			return err
		}
		if err := s.recordNodeChange(ctx, tx, id, info, fixed); err != nil {
			return err
		}
		return s.nodes.put(tx, id, info, fixed)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&dtv1.HeartbeatResponse{}), nil
}

// recordNodeChange records that a node changed what it is called, or the
// labels that decide who may enter it.
func (s *Server) recordNodeChange(ctx context.Context, tx *store.Tx, id string, info *dtv1.NodeInfo, fixed map[string]string) error {
	old, err := s.nodes.get(tx, id)
	if err != nil {
		return err
	}
	var changes []string
	if old.Spec.Hostname != info.GetName() {
		changes = append(changes, fmt.Sprintf("name: %s → %s", old.Spec.Hostname, info.GetName()))
	}
	if !maps.Equal(old.Metadata.Labels, mergeLabels(info.GetLabels(), fixed)) {
		changes = append(changes, "labels")
	}
	if len(changes) == 0 {
		return nil
	}
	_, err = s.audit.Record(tx, event.Event{
		Type: event.NodeUpdate, Success: true, User: callerOf(ctx).actor, Kind: resource.KindNode, Name: id,
		NodeID: id, NodeName: info.GetName(), RemoteAddr: callerOf(ctx).remote(), Reasons: changes,
	})
	return err
}

// Follow sends at once what the node lacks, again after each change, and every
// followKeepalive that nothing has changed.
func (h nodeService) Follow(ctx context.Context, req *connect.Request[dtv1.FollowRequest], stream *connect.ServerStream[dtv1.StateUpdate]) error {
	s := h.s
	c := callerOf(ctx)
	has, err := feed.ParseHas(req.Msg)
	if err != nil {
		return invalid(err)
	}
	ctx, done := s.follows.begin(ctx, c.nodeID, s.now)
	defer done()
	s.metrics.nodes.Inc()
	defer s.metrics.nodes.Dec()
	var told *knownNode
	tick := time.NewTicker(followKeepalive)
	defer tick.Stop()
	for {
		// A stream is one call: nobody looks at its certificate again.
		if !s.now().Before(c.until) {
			return api.Refuse(connect.CodeUnauthenticated, "the certificate has expired while it was followed")
		}
		now, err := s.feed.latestFor(ctx, c.nodeID)
		if err != nil {
			return err
		}
		var facts *feed.Facts
		if now.node != told {
			if facts, err = now.node.signed(s.ca.Cluster(), s.ca.SignMessage); err != nil {
				return err
			}
			told = now.node
		}
		s.allowSend(ctx, followKeepalive+takeTimeout)
		if err := stream.Send(now.statement.Update(&has, facts)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.stopping.Done():
			return api.Refuse(connect.CodeUnavailable, "dtauthd is stopping")
		case <-now.changed:
		case <-now.node.replaced:
		case <-tick.C:
		}
	}
}

// RecordEvents stores what a node did. A node speaks only of itself, by the ID
// and the name that the cluster knows, and only of what happens on nodes.
func (h nodeService) RecordEvents(ctx context.Context, req *connect.Request[dtv1.RecordEventsRequest]) (*connect.Response[dtv1.RecordEventsResponse], error) {
	s, id := h.s, callerOf(ctx).nodeID
	if n := len(req.Msg.GetEvents()); n > maxEventsPerCall {
		return nil, api.Refuse(connect.CodeInvalidArgument, "at most %d events a call, got %d", maxEventsPerCall, n)
	}
	var size int64
	for _, raw := range req.Msg.GetEvents() {
		size += int64(len(raw))
	}
	if err := s.takeReport(id, size); err != nil {
		return nil, err
	}
	events := make([]event.Event, 0, len(req.Msg.GetEvents()))
	for i, raw := range req.Msg.GetEvents() {
		var e event.Event
		if len(raw) > maxEvent || json.Unmarshal(raw, &e) != nil || !event.FromNode(e.Type) || e.UID == "" || len(e.UID) > 64 || e.Time.IsZero() {
			return nil, api.Refuse(connect.CodeInvalidArgument, "event %d is not one that a node may report", i)
		}
		e.NodeID = id
		events = append(events, e)
	}
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		node, err := s.nodes.get(tx, id)
		if err != nil {
			return err
		}
		for _, e := range events {
			e.NodeName = node.Spec.Hostname
			if e.TrustedDevice != nil && e.TrustedDevice.DeviceID != "" {
				if err := s.nameOS(tx, e.TrustedDevice); err != nil {
					return err
				}
			}
			if err := s.audit.RecordForeign(tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&dtv1.RecordEventsResponse{}), nil
}

// takeReport counts what a node reports. What is refused here stays in the
// node's spool, and comes again.
func (s *Server) takeReport(id string, size int64) error {
	ok, first := s.reported.add(id, size, s.now())
	if ok {
		return nil
	}
	if first {
		s.log.Warn("a node reports more than the record takes from one within a minute", "node", id, "bytes", maxReported)
	}
	return api.Refuse(connect.CodeResourceExhausted, "more than %d bytes of events, or %d changes of the node, within a minute", maxReported, maxReported/changeCost).WithHint("Send them later")
}
