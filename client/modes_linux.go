package client

import (
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// readModes reads the modes of the terminal fd, in RFC 4254's numbers. The
// tables are those of RFC 4254 section 8 and of termios(3); VDSUSP, VFLUSH,
// VSWTCH and VSTATUS do not exist on Linux.
func readModes(fd int, modes ssh.TerminalModes) {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return
	}
	for index, code := range map[int]uint8{
		unix.VINTR: ssh.VINTR, unix.VQUIT: ssh.VQUIT, unix.VERASE: ssh.VERASE, unix.VKILL: ssh.VKILL,
		unix.VEOF: ssh.VEOF, unix.VEOL: ssh.VEOL, unix.VEOL2: ssh.VEOL2, unix.VSTART: ssh.VSTART,
		unix.VSTOP: ssh.VSTOP, unix.VSUSP: ssh.VSUSP, unix.VREPRINT: ssh.VREPRINT,
		unix.VWERASE: ssh.VWERASE, unix.VLNEXT: ssh.VLNEXT, unix.VDISCARD: ssh.VDISCARD,
	} {
		modes[code] = uint32(t.Cc[index])
		if t.Cc[index] == 0 {
			modes[code] = 255 // "255 if none"
		}
	}
	for _, f := range []struct {
		word  uint32
		flags map[uint32]uint8
	}{
		{t.Iflag, map[uint32]uint8{
			unix.IGNPAR: ssh.IGNPAR, unix.PARMRK: ssh.PARMRK, unix.INPCK: ssh.INPCK, unix.ISTRIP: ssh.ISTRIP,
			unix.INLCR: ssh.INLCR, unix.IGNCR: ssh.IGNCR, unix.ICRNL: ssh.ICRNL, unix.IUCLC: ssh.IUCLC,
			unix.IXON: ssh.IXON, unix.IXANY: ssh.IXANY, unix.IXOFF: ssh.IXOFF, unix.IMAXBEL: ssh.IMAXBEL,
			unix.IUTF8: ssh.IUTF8,
		}},
		{t.Lflag, map[uint32]uint8{
			unix.ISIG: ssh.ISIG, unix.ICANON: ssh.ICANON, unix.XCASE: ssh.XCASE, unix.ECHO: ssh.ECHO,
			unix.ECHOE: ssh.ECHOE, unix.ECHOK: ssh.ECHOK, unix.ECHONL: ssh.ECHONL, unix.NOFLSH: ssh.NOFLSH,
			unix.TOSTOP: ssh.TOSTOP, unix.IEXTEN: ssh.IEXTEN, unix.ECHOCTL: ssh.ECHOCTL, unix.ECHOKE: ssh.ECHOKE,
			unix.PENDIN: ssh.PENDIN,
		}},
		{t.Oflag, map[uint32]uint8{
			unix.OPOST: ssh.OPOST, unix.OLCUC: ssh.OLCUC, unix.ONLCR: ssh.ONLCR, unix.OCRNL: ssh.OCRNL,
			unix.ONOCR: ssh.ONOCR, unix.ONLRET: ssh.ONLRET,
		}},
		{t.Cflag, map[uint32]uint8{unix.PARENB: ssh.PARENB, unix.PARODD: ssh.PARODD}},
	} {
		for bit, code := range f.flags {
			modes[code] = 0
			if f.word&bit != 0 {
				modes[code] = 1
			}
		}
	}
	modes[ssh.CS7], modes[ssh.CS8] = isSize(t, unix.CS7), isSize(t, unix.CS8)
}

func isSize(t *unix.Termios, size uint32) uint32 {
	if t.Cflag&unix.CSIZE == size {
		return 1
	}
	return 0
}
