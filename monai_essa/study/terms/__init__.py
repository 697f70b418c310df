# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a study agrees on before its first stage: the request, the draft that fits, the protocol, the rates."""
