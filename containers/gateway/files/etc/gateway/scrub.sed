s/(refresh_token|access_token|id_token|code)(=|: )[^ &,"]+/\1\2[cut]/g
s/eyJ[A-Za-z0-9_.-]{16,}/[cut]/g
