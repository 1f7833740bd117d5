package sshd

import "time"

const (
	// maxNode is several times what a node.json with the longest names has.
	maxNode = 4 << 10
	// maxAuthorities: there are two while keys are rotated. Each is asked at
	// every signature.
	maxAuthorities = 16
	// maxUserCA: an RSA key of 16,384 bits, the largest that OpenSSH makes, is
	// 2.8 KiB of base64.
	maxUserCA = maxAuthorities * 4 << 10
	// maxCertificate is what Linux passes in one argument (execve(2),
	// MAX_ARG_STRLEN), and more than a certificate of our CA has in base64: two
	// extensions of 20 KiB and 256 logins.
	maxCertificate = 128 << 10
	// maxOptions: OpenSSH 7.8 and 7.9, which are the oldest that know
	// permitlisten, leave out lines of more than 16 KiB (auth2-pubkey.c,
	// SSH_MAX_PUBKEY_BYTES). The other options and the login have their room.
	maxOptions = 15 << 10
	// maxAnswerTime is how long a login may wait for the helper: the person
	// would, and so would the ten others whom sshd lets wait (MaxStartups).
	maxAnswerTime = time.Second
	// maxLogLine is that of the oldest form of syslog (RFC 3164, section 4.1).
	maxLogLine = 1024
)
