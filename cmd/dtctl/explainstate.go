package main

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/api/dtv1"
	"devicetrust/cmd/internal/cli"
)

// parseForward reads what is to be forwarded; nil where it is a session that is
// asked for.
func parseForward(forward, listen string) (*dtv1.ExplainForward, error) {
	flag, text := "--forward", forward
	f := &dtv1.ExplainForward{Listen: listen != ""}
	if f.GetListen() {
		flag, text = "--listen", listen
	}
	if text == "" {
		return nil, nil
	}
	if strings.HasPrefix(text, "/") {
		f.Path = text
		return f, nil
	}
	if f.GetListen() && !strings.Contains(text, ":") {
		text = ":" + text
	}
	host, port, err := net.SplitHostPort(text)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || !f.GetListen() && (host == "" || n == 0) {
		return nil, cli.Usagef("%s=%s: want HOST:PORT or the path of a socket", flag, strings.TrimPrefix(text, ":"))
	}
	f.Host, f.Port = host, uint32(n)
	return f, nil
}

// stateLines say by which state a node decides.
func (a *app) stateLines(node string, st *dtv1.NodeStateReport) []string {
	title := fmt.Sprintf("Node %s (%s)", node, st.GetEnforcer())
	if st.GetSequence() == 0 {
		return []string{title + " has not told what it decides by"}
	}
	lines := []string{fmt.Sprintf("%s decides by change %d of %d, confirmed %s (reported %s)", title,
		st.GetSequence(), st.GetCurrentSequence(), a.ago(st.GetConfirmed()), a.ago(st.GetReported()))}
	switch {
	case st.GetSequence() < st.GetCurrentSequence():
		lines = append(lines, "It has not told yet that it heard of the rest: the above is what it decides once it has")
	case st.GetSequence() > st.GetCurrentSequence():
		lines = append(lines, "The cluster does not have that change: was a backup put in its place?")
	}
	return lines
}

// ago is how long ago t was, to a person.
func (a *app) ago(t *timestamppb.Timestamp) string {
	if t == nil {
		return "never"
	}
	return max(0, a.Now().Sub(t.AsTime())).Round(time.Second).String() + " ago"
}

type explanationState struct {
	Enforcer        string     `json:"enforcer"`
	Sequence        uint64     `json:"sequence"`
	Confirmed       *time.Time `json:"confirmed"`
	Reported        *time.Time `json:"reported"`
	CurrentSequence uint64     `json:"current_sequence"`
}

func explainedState(st *dtv1.NodeStateReport) *explanationState {
	if st == nil {
		return nil
	}
	return &explanationState{st.GetEnforcer(), st.GetSequence(), utc(st.GetConfirmed()), utc(st.GetReported()), st.GetCurrentSequence()}
}
