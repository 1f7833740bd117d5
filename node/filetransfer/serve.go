package filetransfer

import (
	"io"

	"github.com/pkg/sftp"
)

// Serve answers requests until in is at its end. Relative paths are below the
// working directory.
func Serve(in io.ReadCloser, out io.WriteCloser) error {
	s, err := sftp.NewServer(struct {
		io.Reader
		io.WriteCloser
	}{in, out}, sftp.WithMaxTxPacket(MaxPacket-1024))
	if err != nil {
		return err
	}
	return s.Serve()
}
