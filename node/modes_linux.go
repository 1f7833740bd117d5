package node

import "golang.org/x/sys/unix"

// applyModes sets the modes of RFC 4254 section 8 that Linux has; others are
// left as the system makes them.
func applyModes(fd int, modes []terminalMode) error {
	if len(modes) == 0 {
		return nil
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	for _, m := range modes {
		applyMode(t, m)
	}
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

// Opcodes of characters: a value of 255 is "none" (RFC 4254), which Linux
// writes as _POSIX_VDISABLE, 0.
var modeChars = map[uint8]int{
	1: unix.VINTR, 2: unix.VQUIT, 3: unix.VERASE, 4: unix.VKILL, 5: unix.VEOF,
	6: unix.VEOL, 7: unix.VEOL2, 8: unix.VSTART, 9: unix.VSTOP, 10: unix.VSUSP,
	12: unix.VREPRINT, 13: unix.VWERASE, 14: unix.VLNEXT, 16: unix.VSWTC, 18: unix.VDISCARD,
}

var (
	inputModes = map[uint8]uint32{
		30: unix.IGNPAR, 31: unix.PARMRK, 32: unix.INPCK, 33: unix.ISTRIP, 34: unix.INLCR,
		35: unix.IGNCR, 36: unix.ICRNL, 37: unix.IUCLC, 38: unix.IXON, 39: unix.IXANY,
		40: unix.IXOFF, 41: unix.IMAXBEL, 42: unix.IUTF8, // 42: RFC 8160
	}
	localModes = map[uint8]uint32{
		50: unix.ISIG, 51: unix.ICANON, 52: unix.XCASE, 53: unix.ECHO, 54: unix.ECHOE,
		55: unix.ECHOK, 56: unix.ECHONL, 57: unix.NOFLSH, 58: unix.TOSTOP, 59: unix.IEXTEN,
		60: unix.ECHOCTL, 61: unix.ECHOKE, 62: unix.PENDIN,
	}
	outputModes = map[uint8]uint32{
		70: unix.OPOST, 71: unix.OLCUC, 72: unix.ONLCR, 73: unix.OCRNL, 74: unix.ONOCR, 75: unix.ONLRET,
	}
	controlModes = map[uint8]uint32{
		90: unix.CS7, 91: unix.CS8, 92: unix.PARENB, 93: unix.PARODD,
	}
)

func applyMode(t *unix.Termios, m terminalMode) {
	if i, ok := modeChars[m.opcode]; ok {
		c := uint8(m.value)
		if m.value >= 255 {
			c = 0
		}
		t.Cc[i] = c
		return
	}
	set := func(field *uint32, bits map[uint8]uint32) {
		bit, ok := bits[m.opcode]
		if !ok {
			return
		}
		if m.value != 0 {
			*field |= bit
		} else {
			*field &^= bit
		}
	}
	set(&t.Iflag, inputModes)
	set(&t.Lflag, localModes)
	set(&t.Oflag, outputModes)
	if m.opcode == 90 || m.opcode == 91 { // CS7 and CS8 are one field
		if m.value != 0 {
			t.Cflag = t.Cflag&^unix.CSIZE | controlModes[m.opcode]
		}
		return
	}
	set(&t.Cflag, controlModes)
}
