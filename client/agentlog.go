package client

import (
	"io"
	"os"
	"sync"
)

// agentLogFile is where an agent writes that nobody watches.
const agentLogFile = "agent.log"

// AgentLog opens the log of an agent in the background. What an earlier one
// wrote goes, as does what was written before where the file would have more
// than maxAgentLog bytes. Close it.
func (h *Home) AgentLog() (io.WriteCloser, error) {
	if err := h.folder(); err != nil {
		return nil, err
	}
	path := h.path(agentLogFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, unwritable(path, err)
	}
	return &boundedLog{file: f}, nil
}

// boundedLog is a file that begins again when it is full.
type boundedLog struct {
	mu   sync.Mutex
	file *os.File
	size int // guarded by mu
}

func (l *boundedLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size+len(line) > maxAgentLog {
		if err := l.file.Truncate(0); err != nil {
			return 0, err
		}
		if _, err := l.file.Seek(0, io.SeekStart); err != nil {
			return 0, err
		}
		l.size = 0
	}
	n, err := l.file.Write(line)
	l.size += n
	return n, err
}

func (l *boundedLog) Close() error { return l.file.Close() }
