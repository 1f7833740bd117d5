package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"devicetrust/durable"
	"devicetrust/node/sshd"
)

// connectionsFile is what a stock sshd's side-car knows of those who are in, for
// when it is started again.
const connectionsFile = "connections.json"

const connectionsVersion = 1

// pastSessions is the content of the file.
type pastSessions struct {
	Version     int           `json:"version"`
	SSHDConfig  string        `json:"sshd_config"`
	Connections []pastSession `json:"connections"`
}

// pastSession is one connection, and what was done about it.
type pastSession struct {
	sshd.Past
	// Recorded: its beginning is. Cut is why it is being ended, where it is.
	Recorded bool   `json:"recorded,omitempty"`
	Cut      string `json:"cut,omitempty"`
	// Before: it came in while sshd did not follow our part.
	Before bool `json:"before,omitempty"`
	// State is the one under which it was let stay (stateMark).
	State string `json:"state"`
}

// stateMark tells states by what they say, at whatever time they say it; "" where
// there is none.
func stateMark(st *state) string {
	if st.view == nil || st.view.State == nil {
		return ""
	}
	h := sha256.New()
	for _, digest := range st.view.State.Request().GetDigests() {
		fmt.Fprintf(h, "%x ", digest)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// loadSessions reads the file of the sshd with the configuration.
func loadSessions(dir, sshdConfig string) ([]pastSession, error) {
	data, err := durable.Read(filepath.Join(dir, connectionsFile), maxConnectionsFile)
	if err != nil {
		return nil, err
	}
	var versioned struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &versioned); err != nil { // where something follows its end, too
		return nil, err
	}
	if versioned.Version != connectionsVersion {
		return nil, fmt.Errorf("it is of version %d, and this dtnoded reads version %d", versioned.Version, connectionsVersion)
	}
	var p pastSessions
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return nil, err
	}
	if p.SSHDConfig != sshdConfig {
		return nil, fmt.Errorf("it is about the sshd of %q", p.SSHDConfig)
	}
	return p.Connections, nil
}

// recall takes up the connections where the side-car left them. Without the file
// it goes on as if nobody had been known.
func (c *sidecar) recall() {
	past, err := loadSessions(c.config.DataDir, c.config.SSHDConfig)
	var known []*sshd.Connection
	if err == nil {
		known, err = c.watch.Recall(pastOf(past))
	}
	if errors.Is(err, fs.ErrNotExist) {
		c.config.Log.Info("nothing is known of connections from before this start", "file", connectionsFile)
		return
	}
	if err != nil {
		c.config.Log.Error("what was known of connections cannot be read: the records of their ends are missing, and those of which nothing else tells whose they are will be cut", "file", filepath.Join(c.config.DataDir, connectionsFile), "error", err)
		return
	}
	now := c.states.get()
	for i, l := range known {
		s := &stockSession{connection: l, recorded: past[i].Recorded, reason: past[i].Cut, before: past[i].Before}
		if past[i].State != "" && past[i].State == stateMark(now) {
			s.since = now.policy // else what the log does not tell may have changed
		}
		c.sessions[l.ID] = s
	}
	c.config.Log.Info("connections are known from before this start", "connections", len(known))
}

func pastOf(all []pastSession) []sshd.Past {
	past := make([]sshd.Past, len(all))
	for i, p := range all {
		past[i] = p.Past
	}
	return past
}

// snapshot is the file as it is to be now: those who are in, the oldest first, as
// far as there is room.
func (c *sidecar) snapshot() ([]byte, error) {
	file := pastSessions{Version: connectionsVersion, SSHDConfig: c.config.SSHDConfig, Connections: []pastSession{}}
	all := make([]*stockSession, 0, len(c.sessions))
	for _, s := range c.sessions {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *stockSession) int {
		l, r := a.connection, b.connection
		if by := l.Began.Compare(r.Began); by != 0 {
			return by
		}
		return strings.Compare(l.ID, r.ID)
	})
	room := maxConnectionsFile - 64<<10 // for the rest of the file
	for i, s := range all {
		p := pastSession{Past: c.watch.Past(s.connection), Recorded: s.recorded, Cut: s.reason, Before: s.before, State: c.judged}
		text, err := json.Marshal(p)
		if err != nil {
			return nil, err
		}
		if room -= len(text) + 1; room < 0 {
			c.sayUnkept(len(all) - i)
			break
		}
		file.Connections = append(file.Connections, p)
	}
	return json.Marshal(file)
}

// sayUnkept says once that there is no room.
func (c *sidecar) sayUnkept(n int) {
	if !c.crowded {
		c.config.Log.Warn("there are too many connections to keep what is known of them all; some are cut when the side-car is started again", "connections", n)
	}
	c.crowded = true
}

// remember has the snapshot written, where it is another. It waits for no disk.
func (c *sidecar) remember() {
	data, err := c.snapshot()
	if err != nil {
		c.config.Log.Error("what is known of connections cannot be kept", "error", err)
		return
	}
	if bytes.Equal(data, c.remembered) {
		return
	}
	c.remembered = data
	select {
	case <-c.memory: // an older one, which nobody has begun to write
	default:
	}
	c.memory <- data
}

// keepMemory writes the last of what remember gives, until it gives no more.
func keepMemory(ctx context.Context, dir string, memory <-chan []byte, log *slog.Logger) {
	failing := false
	for data := range memory {
		err := durable.Write(filepath.Join(dir, connectionsFile), data)
		if err != nil && !failing {
			log.Error("what is known of connections cannot be kept; some are cut if the side-car is started again", "error", err)
		}
		failing = err != nil
		sleep(ctx, companionKeep) // what changes meanwhile is written at once
	}
}

// overMeanwhile is why there is no more to be said of an end.
const overMeanwhile = "the connection ended while dtnoded sshd sync was not running; when is not known"

// olderThanSync is what people are told whom a side-car found, and lost the
// memory of or never had it.
const olderThanSync = "this connection is older than the running dtnoded sshd sync, which cannot tell whose certificate it has; log in again"
