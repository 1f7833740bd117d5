package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

// piped is a connection to whoever serves it.
func piped(t *testing.T, serve func(net.Conn)) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", listen(t, serve))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestAnEndOfInputIsPassedOnAndTheAnswerAwaited(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<16)
	conn := piped(t, func(conn net.Conn) {
		all, _ := io.ReadAll(conn) // ends only with a half-close
		conn.Write(all)
		conn.Close()
	})
	var out bytes.Buffer
	if err := Pipe(t.Context(), conn, strings.NewReader(big), &out); err != nil || out.String() != big {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
}

func TestAnEndOfTheConnectionDoesNotWaitForInput(t *testing.T) {
	conn := piped(t, func(conn net.Conn) { io.WriteString(conn, "bye"); conn.Close() })
	never, w := io.Pipe()
	defer w.Close()
	var out bytes.Buffer
	if err := Pipe(t.Context(), conn, never, &out); err != nil || out.String() != "bye" {
		t.Errorf("%q, %v", &out, err)
	}
}

func TestCtrlCEndsAPipe(t *testing.T) {
	conn := piped(t, func(conn net.Conn) { io.WriteString(conn, "x"); io.Copy(io.Discard, conn) })
	never, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	if err := Pipe(ctx, conn, never, whenWritten(cancel)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
