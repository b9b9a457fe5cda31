"""Dormand & Prince's explicit Runge-Kutta pair of orders 5 and 4 (1980, J. Comput. Appl. Math. 6, 19).

k_1 = f(t, y),   k_i = f(t + c_i h, y + h sum_{j < i} a_ij k_j); the last stage is at the new state y + h sum_j a_7j k_j
"""

C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
"""Weights of the slopes in the new state less the other estimate."""
